package processors

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

const testRoute = "v1 ownership"

// keyedRequest is a request with an idempotency key: its records as ingest makes them.
type keyedRequest struct {
	batch   string
	records []*kgo.Record // the header first
}

// request makes the records of a request: a header, and items that add one to a SKU each.
func (w *world) request(key, body string, skus ...string) keyedRequest {
	w.t.Helper()
	r := keyedRequest{batch: schemas.NewBatchKey()}
	hash := sha256.Sum256([]byte(body))
	at := schemas.Partition(schemas.RequestKey(tenant, testRoute, key), partitions)
	add := func(target string, partition int32, bodyHash []byte, index int, recordKey, value []byte) {
		headers := envelope(schemas.Envelope{Batch: r.batch, Index: int32(index), Reply: 1})
		passage := schemas.Passage{Topic: target, Partition: partition, Route: testRoute, Key: key, BodyHash: bodyHash, Last: len(r.records) == len(skus)}
		r.records = append(r.records, &kgo.Record{
			Topic: schemas.Requests, Partition: at, Key: recordKey, Value: value, Headers: passage.Headers(headers), Timestamp: time.Now(),
		})
	}
	add(schemas.Batches, 0, hash[:], 0, nil, w.encode(schemas.Batches, &schemas.BatchHeader{
		Tenant: tenant, Key: r.batch, Kind: schemas.KindOwnership, Items: int32(len(skus)), ReplyPartition: 1, AcceptedAt: time.Now().UTC().Truncate(time.Millisecond),
	}))
	for i, sku := range skus {
		item, value := w.grant("ann", sku)
		itemKey := upserts.Key(tenant, &item)
		add(schemas.KindOwnership, schemas.Partition(itemKey, partitions), nil, i, itemKey, value)
	}
	return r
}

// at gives the records of a request the time at which they were accepted, see ownTime.
func (r keyedRequest) at(t time.Time) keyedRequest {
	for _, rec := range r.records {
		rec.Timestamp = t
	}
	return r
}

// ownTime lets the producer say when the records of requests were accepted, which else the broker does.
func (w *world) ownTime() {
	w.t.Helper()
	create := "CreateTime"
	_, err := w.admin.AlterTopicConfigs(w.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "message.timestamp.type", Value: &create}}, schemas.Requests)
	if err != nil {
		w.t.Fatal(err)
	}
}

// awaitAnswers waits until there is one answer for each request, by the key of its batch.
func (w *world) awaitAnswers(requests ...keyedRequest) map[string]schemas.RequestAnswer {
	w.t.Helper()
	answers := map[string]schemas.RequestAnswer{}
	w.eventually("answers", func() error {
		records := w.read(schemas.RequestAnswers)
		clear(answers)
		for _, rec := range records {
			a := decode[schemas.RequestAnswer](w, schemas.RequestAnswerSchema, rec.Value)
			env, err := schemas.ParseEnvelope(rec.Headers)
			if err != nil || env.Batch != a.Batch || rec.Partition != 1 {
				w.t.Fatalf("answer on partition %d with envelope %+v (%v), want partition 1 and batch %s", rec.Partition, env, err, a.Batch)
			}
			if _, twice := answers[a.Batch]; twice {
				w.t.Fatalf("two answers about batch %s", a.Batch)
			}
			answers[a.Batch] = *a
		}
		for _, r := range requests {
			if _, ok := answers[r.batch]; !ok {
				return fmt.Errorf("%d answers, none about %s", len(answers), r.batch)
			}
		}
		return nil
	})
	return answers
}

// accepted are the keys of the batches whose headers are in the topic batches, with their numbers.
func (w *world) accepted() map[string]int64 {
	w.t.Helper()
	numbers := map[string]int64{}
	for _, rec := range w.read(schemas.Batches) {
		h := decode[schemas.BatchHeader](w, schemas.BatchHeaderSchema, rec.Value)
		if _, twice := numbers[h.Key]; twice {
			w.t.Fatalf("two headers of batch %s", h.Key)
		}
		numbers[h.Key] = epochs.BatchNumber(rec.Offset)
	}
	return numbers
}

// itemsOf counts the items of each batch that lie in their topic.
func (w *world) itemsOf(topic string) map[string]int {
	w.t.Helper()
	items := map[string]int{}
	for _, rec := range w.read(topic) {
		env, err := schemas.ParseEnvelope(rec.Headers)
		if err != nil {
			w.t.Fatal(err)
		}
		items[env.Batch]++
	}
	return items
}

// The first request with a key has its effect, later ones have none and are told of the first, whether they come in the same round, in a
// later one, or to a copy that took the partition over.
func TestOnlyTheFirstRequestWithAKeyHasAnEffect(t *testing.T) {
	w := newWorld(t)
	first := w.request("k", "body", "a", "b")
	sameRound := w.request("k", "body", "a", "b")
	otherBody := w.request("k", "another body", "c")
	otherKey := w.request("k2", "body", "d")
	// The records of two requests that race lie one after the other in turn.
	w.produce(first.records[0], sameRound.records[0], sameRound.records[1], first.records[1], otherBody.records[0], sameRound.records[2], first.records[2], otherBody.records[1])
	w.produce(otherKey.records...)

	a := w.start(Requests, nil).ready()
	w.awaitAnswers(first, sameRound, otherBody, otherKey)
	laterRound := w.request("k", "body", "a", "b")
	w.produce(laterRound.records...)
	w.awaitAnswers(laterRound)
	a.kill()
	w.start(Requests, nil).ready()
	afterTakeOver, conflictAfter := w.request("k", "body", "a", "b"), w.request("k", "yet another", "e")
	w.produce(append(afterTakeOver.records, conflictAfter.records...)...)
	answers := w.awaitAnswers(afterTakeOver, conflictAfter)

	numbers := w.accepted()
	if len(numbers) != 2 {
		t.Fatalf("batches %v, want those of two requests", numbers)
	}
	number := numbers[first.batch]
	verdict := func(r keyedRequest, verdict string) schemas.RequestAnswer {
		return schemas.RequestAnswer{Tenant: tenant, Batch: r.batch, Verdict: verdict, First: first.batch, Number: number}
	}
	want := map[string]schemas.RequestAnswer{
		first.batch:         verdict(first, schemas.RequestAccepted),
		sameRound.batch:     verdict(sameRound, schemas.RequestRepeated),
		otherBody.batch:     verdict(otherBody, schemas.RequestConflict),
		otherKey.batch:      {Tenant: tenant, Batch: otherKey.batch, Verdict: schemas.RequestAccepted, First: otherKey.batch, Number: numbers[otherKey.batch]},
		laterRound.batch:    verdict(laterRound, schemas.RequestRepeated),
		afterTakeOver.batch: verdict(afterTakeOver, schemas.RequestRepeated),
		conflictAfter.batch: verdict(conflictAfter, schemas.RequestConflict),
	}
	if diff := cmp.Diff(want, answers); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{first.batch: 2, otherKey.batch: 1}, w.itemsOf(schemas.KindOwnership)); diff != "" {
		t.Errorf("items by batch (-want +got):\n%s", diff)
	}
}

// Who is told that a request was accepted relies on all of it being where it belongs, however many rounds and copies that took.
func TestTheFirstRequestIsAnsweredWithItsLastRecord(t *testing.T) {
	w := newWorld(t)
	smallRounds := func(c *Config) { c.RoundRecords = 2 }
	a := w.start(Requests, smallRounds).ready()
	first, none := w.request("k", "body", "a", "b", "c", "d", "e"), w.request("k2", "body")
	repeated := w.request("k", "body", "a", "b", "c", "d", "e")
	w.produce(first.records[:4]...)
	w.eventually("items", func() error {
		if n := w.itemsOf(schemas.KindOwnership)[first.batch]; n < 3 {
			return fmt.Errorf("have %d", n)
		}
		return nil
	})
	if answers := w.read(schemas.RequestAnswers); len(answers) > 0 {
		t.Errorf("%d answers when 3 of 5 items were passed on, want none", len(answers))
	}
	w.produce(repeated.records...)
	w.produce(none.records...)
	w.awaitAnswers(repeated, none)
	a.kill()
	w.start(Requests, smallRounds).ready()
	w.produce(first.records[4:]...)
	answers, numbers := w.awaitAnswers(first), w.accepted()
	want := map[string]schemas.RequestAnswer{
		first.batch:    {Tenant: tenant, Batch: first.batch, Verdict: schemas.RequestAccepted, First: first.batch, Number: numbers[first.batch]},
		repeated.batch: {Tenant: tenant, Batch: repeated.batch, Verdict: schemas.RequestRepeated, First: first.batch, Number: numbers[first.batch]},
		none.batch:     {Tenant: tenant, Batch: none.batch, Verdict: schemas.RequestAccepted, First: none.batch, Number: numbers[none.batch]},
	}
	if diff := cmp.Diff(want, answers); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	if n := w.itemsOf(schemas.KindOwnership)[first.batch]; n != 5 {
		t.Errorf("%d items were passed on, want 5", n)
	}
}

// What is passed on lies where it would lie without an idempotency key, and looks the same.
func TestPassedRecordsAreThoseOfARequestWithoutAKey(t *testing.T) {
	w := newWorld(t)
	w.start(Requests, nil).ready()
	r := w.request("k", "body", "a")
	targets := map[string]int32{schemas.Accounts: 0, schemas.Calls: 3, schemas.ProcessedTopic(schemas.References): 1, schemas.UnprocessedTopic(schemas.KindOwnership): 1}
	headers := envelope(schemas.Envelope{Batch: r.batch, Index: 7, Reply: 1, Ref: new("mine"), TraceParent: "00-trace"})
	for topic, partition := range targets {
		to := schemas.Passage{Topic: topic, Partition: partition, Route: testRoute, Key: "k"}
		r.records = append(r.records, &kgo.Record{Topic: schemas.Requests, Partition: r.records[0].Partition, Key: []byte("key of " + topic), Value: []byte("value of " + topic), Headers: to.Headers(headers)})
	}
	w.produce(r.records...)
	w.awaitAnswers(r)
	for topic, partition := range targets {
		got := w.read(topic)
		if len(got) != 1 {
			t.Fatalf("%s has %d records, want 1", topic, len(got))
		}
		if got[0].Partition != partition || string(got[0].Key) != "key of "+topic || string(got[0].Value) != "value of "+topic {
			t.Errorf("%s: partition %d, key %q, value %q", topic, got[0].Partition, got[0].Key, got[0].Value)
		}
		if diff := cmp.Diff(headers, got[0].Headers); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", topic, diff)
		}
	}
}

// A key is remembered for 24 hours of the records' time, no shorter and no longer, also by a copy that read the changelog; what is older
// is removed from memory and changelog.
func TestKeysAreRememberedForADay(t *testing.T) {
	w := newWorld(t)
	w.ownTime()
	begin := time.Now().Add(-72 * time.Hour).Truncate(time.Millisecond)
	var old []keyedRequest
	for i := range 100 { // all in one partition with the key that is asked for again
		key := fmt.Sprint("old-", i)
		for n := 0; schemas.Partition(schemas.RequestKey(tenant, testRoute, key), partitions) != schemas.Partition(schemas.RequestKey(tenant, testRoute, "k"), partitions); n++ {
			key = fmt.Sprint("old-", i, "-", n)
		}
		old = append(old, w.request(key, "body", "a").at(begin.Add(time.Duration(i)*time.Second)))
		w.produce(old[i].records...)
	}
	a := w.start(Requests, nil).ready()
	first := w.request("k", "body", "a").at(begin.Add(time.Hour))
	justBefore := w.request("k", "body", "a").at(begin.Add(25*time.Hour - time.Millisecond))
	w.produce(append(first.records, justBefore.records...)...)
	w.awaitAnswers(first, justBefore)
	a.kill()
	b := w.start(Requests, nil).ready()
	after := w.request("k", "another body", "b").at(begin.Add(25 * time.Hour))
	again := w.request("k", "another body", "b").at(begin.Add(25 * time.Hour))
	w.produce(append(after.records, again.records...)...)
	answers := w.awaitAnswers(append(old, after, again)...)
	for r, want := range map[string]string{
		first.batch: schemas.RequestAccepted, justBefore.batch: schemas.RequestRepeated, after.batch: schemas.RequestAccepted, again.batch: schemas.RequestRepeated,
	} {
		if got := answers[r].Verdict; got != want {
			t.Errorf("verdict %s, want %s", got, want)
		}
	}
	if answers[again.batch].First != after.batch {
		t.Errorf("the repeated request was told of batch %s, want %s", answers[again.batch].First, after.batch)
	}
	// Each round forgets some: a few requests later nothing old is left.
	recent := []keyedRequest{after}
	for i := range 20 {
		r := w.request("k", fmt.Sprint("body ", i), "c").at(begin.Add(25 * time.Hour))
		w.produce(r.records...)
		w.awaitAnswers(r)
	}
	live := map[string]*kgo.Record{}
	tombstones := 0
	for _, rec := range w.read(schemas.StateTopic(schemas.Requests)) {
		live[string(rec.Key)] = rec
		if rec.Value == nil {
			delete(live, string(rec.Key))
			tombstones++
		}
	}
	if len(live) != len(recent) || tombstones != len(old) {
		t.Errorf("the changelog remembers %d keys after %d tombstones, want %d after %d", len(live), tombstones, len(recent), len(old))
	}
	b.stop()
}

// A crash of the processor at any moment neither loses a request nor has one done twice.
func TestRequestsHaveOneEffectAcrossKills(t *testing.T) {
	const pairs = 200
	w := newWorld(t)
	copies := []*copyOf{w.start(Requests, nil).ready(), w.start(Requests, nil).ready()}
	var all, firsts, seconds []keyedRequest
	for i := range pairs {
		key, sku := fmt.Sprint("key-", i), fmt.Sprint("sku-", i)
		a, b := w.request(key, "body", sku, sku), w.request(key, "body", sku, sku)
		w.produce(a.records...)
		firsts, seconds = append(firsts, a), append(seconds, b)
		if i%40 == 20 {
			n := i / 40 % 2
			copies[n].kill()
			copies[n] = w.start(Requests, nil)
		}
		w.produce(b.records...)
	}
	all = append(slices.Clone(firsts), seconds...)
	answers := w.awaitAnswers(all...)
	numbers, items := w.accepted(), w.itemsOf(schemas.KindOwnership)
	for i := range pairs {
		a, b := answers[firsts[i].batch], answers[seconds[i].batch]
		if a.Verdict != schemas.RequestAccepted || b.Verdict != schemas.RequestRepeated || b.First != a.Batch || b.Number != a.Number {
			t.Fatalf("pair %d: %+v and %+v", i, a, b)
		}
		if numbers[a.Batch] != a.Number || items[a.Batch] != 2 || items[b.Batch] != 0 {
			t.Fatalf("pair %d: number %d, told %d; %d items of the first, %d of the second", i, numbers[a.Batch], a.Number, items[a.Batch], items[b.Batch])
		}
	}
	if len(numbers) != pairs {
		t.Errorf("%d batches, want %d", len(numbers), pairs)
	}
}

func TestRecordsOfRequestsThatGoNowhereBecomeDeadLetters(t *testing.T) {
	w := newWorld(t)
	w.start(Requests, nil).ready()
	env := envelope(schemas.Envelope{Batch: batchKey, Reply: 1})
	header := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	good := []kgo.RecordHeader{header("target", "ownership/0"), header("route", testRoute), header("idempotency_key", "k")}
	with := func(at int, h kgo.RecordHeader) []kgo.RecordHeader {
		changed := slices.Clone(good)
		changed[at] = h
		return append(slices.Clone(env), changed...)
	}
	cases := map[string]struct {
		headers []kgo.RecordHeader
		message string
	}{
		"no tenant":             {good, "tenant"},
		"no batch":              {append(bare(), good...), "batch"},
		"no target":             {env, "target"},
		"target without number": {with(0, header("target", "ownership")), "target"},
		"partition is missing":  {with(0, header("target", fmt.Sprint("ownership/", partitions))), "partitions"},
		"negative partition":    {with(0, header("target", "ownership/-1")), "target"},
		"keys are not reached":  {with(0, header("target", "api_keys/0")), "target"},
		"nor is state":          {with(0, header("target", "ownership.state/0")), "target"},
		"nor are requests":      {with(0, header("target", "requests/0")), "target"},
		"no route":              {with(1, header("route", "")), "route"},
		"no key":                {with(2, header("idempotency_key", "")), "idempotency_key"},
		"no hash on a header":   {with(0, header("target", "batches/0")), "body_hash"},
	}
	for name, c := range cases {
		w.produce(&kgo.Record{Topic: schemas.Requests, Partition: 2, Value: []byte(name), Headers: c.headers})
	}
	var letters []*kgo.Record
	w.eventually("dead letters", func() error {
		if letters = w.read(schemas.DeadLetters); len(letters) < len(cases) {
			return fmt.Errorf("have %d", len(letters))
		}
		return nil
	})
	for _, rec := range letters {
		letter := decode[schemas.DeadLetter](w, schemas.DeadLetterSchema, rec.Value)
		c, ok := cases[string(*letter.Value)]
		if !ok || letter.Topic != schemas.Requests || letter.Partition != 2 || letter.Reason.Code != schemas.CodeBadHeader || !strings.Contains(letter.Reason.Message, c.message) {
			t.Errorf("%s: dead letter %s/%d %+v", *letter.Value, letter.Topic, letter.Partition, letter.Reason)
		}
		delete(cases, string(*letter.Value))
	}
	for name := range cases {
		t.Errorf("%s: no dead letter", name)
	}
	if got := w.read(schemas.PassableTopics()...); len(got) > 0 {
		t.Errorf("%d records were passed on", len(got))
	}
}
