package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// How much is looked up at once: ClickHouse needs some hundred bytes for each batch or item of a question, this process for each request.
const (
	batchesAtOnce  = 200_000
	itemsAtOnce    = 2_000_000
	requestsAtOnce = 500_000
)

// checkBatches compares each header with the outcomes of its batch. The tables have been compared with the topics before, so that they are
// asked.
func (a *auditor) checkBatches(ctx context.Context) error {
	const topic = schemas.Batches
	from, to := a.from[topic][0], a.judged[topic][0]
	for at := from; at < to; at += batchesAtOnce {
		a.Progress(fmt.Sprintf("%s: %d of %d", a.now().Name, at, to))
		r := clickhouse.LogRange{From: at, To: min(at+batchesAtOnce, to)}
		n, err := a.Conn.CountRows(ctx, "batches", topic, a.Epochs.Of(topic), a.Tenant, r)
		if err != nil {
			return err
		}
		a.now().Compared += n
		broken, err := a.Conn.BrokenBatches(ctx, a.Tenant, a.Epochs.Of(topic), r, a.Most)
		if err != nil {
			return err
		}
		for _, b := range broken {
			problem := fmt.Sprintf("batch %d announces %d items, and %d have an outcome", b.Number, b.Items, b.Outcomes)
			if b.Outcomes > 0 && b.Last >= b.Items {
				problem += fmt.Sprintf("; the highest index is %d", b.Last)
			}
			a.found(Finding{
				Problem: problem, Topic: topic, Offset: b.Offset, Table: "batches", Tenant: b.Tenant, Item: b.Key,
				Do: fmt.Sprintf("compare /v1/batches/%d with what was sent; other findings may name the items", b.Number),
			})
		}
	}
	return nil
}

// checkOutcomes looks for identities that have two outcomes of one attempt: two records that are one item, each with its own outcome.
func (a *auditor) checkOutcomes(ctx context.Context) error {
	a.now().Compared = a.outcomes
	shares := int(a.outcomes/itemsAtOnce) + 1
	for share := range shares {
		a.Progress(fmt.Sprintf("%s: share %d of %d", a.now().Name, share+1, shares))
		doubled, err := a.Conn.DoubledOutcomes(ctx, a.Tenant, a.Since, share, shares, a.Most)
		if err != nil {
			return err
		}
		for _, d := range doubled {
			f := Finding{
				Problem: fmt.Sprintf("attempt %d at the item has several outcomes, at %s", d.Attempt, strings.Join(d.At, " and ")), Tenant: d.Tenant, Item: d.ID,
				Do: "one of the two is not a decision of ours: look for who sent the item's record a second time, and who else writes to the result topics",
			}
			place, at, _ := strings.Cut(d.At[0], "@")
			i := strings.LastIndexByte(place, '/')
			f.Topic = place[:max(i, 0)]
			_, _ = fmt.Sscan(place[i+1:], &f.Partition) // written by ClickHouse from two numbers
			_, _ = fmt.Sscan(at, &f.Offset)
			a.found(f)
		}
	}
	return nil
}

// request is the header of a batch that was sent with an Idempotency-Key.
type request struct {
	at      clickhouse.RecordAt
	tenant  string
	answers int
	number  int64 // of the batch, where it was accepted; otherwise 0
}

// checkRequests compares each request that has an Idempotency-Key with its answer, and an accepted one with its batch.
func (a *auditor) checkRequests(ctx context.Context) error {
	const topic = schemas.Requests
	requests := map[[16]byte]*request{}
	err := a.scan(ctx, topic, a.from[topic], a.judged[topic], func(rec *kgo.Record) error {
		env, err := schemas.ParseEnvelope(rec.Headers)
		to, _, perr := schemas.ParsePassage(rec.Headers)
		if err != nil || perr != nil || to.Topic != schemas.Batches || env.Batch == "" || a.Tenant != "" && env.Tenant != a.Tenant {
			return nil //nolint:nilerr // a dead letter, or another record of a request
		}
		a.now().Compared++
		at := clickhouse.RecordAt{Partition: rec.Partition, Offset: rec.Offset}
		key := [16]byte(mustHex(env.Batch))
		if other := requests[key]; other != nil {
			a.foundRequest(at, env.Tenant, env.Batch, fmt.Sprintf("the batch was requested at %s/%d@%d as well", topic, other.at.Partition, other.at.Offset))
			return nil
		}
		requests[key] = &request{at: at, tenant: env.Tenant}
		if len(requests) < requestsAtOnce {
			return nil
		}
		defer clear(requests)
		return a.compareRequests(ctx, requests)
	})
	if err != nil {
		return err
	}
	return a.compareRequests(ctx, requests)
}

// mustHex reads a batch key, whose form ParseEnvelope has checked.
func mustHex(key string) []byte {
	b, err := hex.DecodeString(key)
	if err != nil {
		panic(err)
	}
	return b
}

// compareRequests reads the answers once for all these requests.
func (a *auditor) compareRequests(ctx context.Context, requests map[[16]byte]*request) error {
	if len(requests) == 0 {
		return nil
	}
	const topic = schemas.RequestAnswers
	err := a.scan(ctx, topic, a.from[topic], a.to[topic], func(rec *kgo.Record) error {
		answer, err := a.decode.answers.Await(ctx, rec.Value)
		var bad *schemas.BadRecordError
		if errors.As(err, &bad) || err == nil && len(answer.Batch) != 32 {
			return nil // no answer
		}
		if err != nil {
			return err
		}
		key, err := hex.DecodeString(answer.Batch)
		if err != nil {
			return nil //nolint:nilerr // no answer of ours
		}
		if r := requests[[16]byte(key)]; r != nil {
			r.answers++
			if answer.Verdict == schemas.RequestAccepted {
				r.number = answer.Number
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var numbers []int64
	var silent []clickhouse.RecordAt
	for _, r := range requests {
		if r.answers == 0 {
			silent = append(silent, r.at)
		}
		if r.number > 0 {
			numbers = append(numbers, r.number)
		}
	}
	batches, err := a.Conn.BatchKeys(ctx, numbers)
	if err != nil {
		return err
	}
	dead, err := a.deadLettersOf(ctx, schemas.Requests, a.Epochs.Of(schemas.Requests), silent)
	if err != nil {
		return err
	}
	for _, key := range slices.SortedFunc(maps.Keys(requests), func(x, y [16]byte) int { return slices.Compare(x[:], y[:]) }) {
		r, batch := requests[key], hex.EncodeToString(key[:])
		switch {
		case r.answers == 0 && dead[r.at] == 0:
			a.foundRequest(r.at, r.tenant, batch, "the request has no answer, and it lies below the committed offset of its processor")
		case r.answers > 1:
			a.foundRequest(r.at, r.tenant, batch, fmt.Sprintf("the request has %d answers", r.answers))
		case r.number > 0 && batches[r.number] != batch:
			a.foundRequest(r.at, r.tenant, batch, fmt.Sprintf("the request was accepted as batch %d, which is not there", r.number))
		}
	}
	return nil
}

func (a *auditor) foundRequest(at clickhouse.RecordAt, tenant, batch, problem string) {
	a.found(Finding{
		Problem: problem, Topic: schemas.Requests, Partition: at.Partition, Offset: at.Offset, Tenant: tenant, Item: batch,
		Do: "look for who moved the committed offset of group " + schemas.GroupRequests + " or writes to requests.answers; the caller may send it again under a new key",
	})
}
