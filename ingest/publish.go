package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// What one transaction holds at most, unless its first batch alone is larger.
const (
	groupRecords = 20_000
	groupBatches = 1_000
	groupBytes   = 32 << 20
)

// producer publishes groups of batches, one transaction each. A lone batch is committed at once; while a commit is under way others gather
// and make the next group, so that groups grow with the load by themselves.
type producer struct {
	s      *Service
	id     string // transactional id
	client *kgo.Client
	up     atomic.Bool // client has its producer id
	fenced []time.Time // lately, by another producer with the same id
}

// fencedLimit is how often in a minute a producer may be fenced before it is clear that another process has its name: Kafka itself fences a
// producer whose transaction timed out, once.
const fencedLimit = 3

// run publishes until ctx is done and all that was queued before is answered.
func (p *producer) run(ctx context.Context) error {
	defer p.close()
	for {
		if err := p.open(ctx); err != nil {
			return nil //nolint:nilerr // only because ctx is done
		}
		group := p.take(ctx)
		if len(group) == 0 {
			return nil
		}
		p.publish(ctx, group)
		if len(p.fenced) >= fencedLimit {
			return fmt.Errorf("transactional id %s: fenced %d times within a minute: another process runs with the same INSTANCE; give each copy its own, or none", p.id, len(p.fenced))
		}
	}
}

// take waits for a batch and takes with it whatever else is there. It is empty when ctx is done.
func (p *producer) take(ctx context.Context) []*submission {
	var group []*submission
	records, bytes := 0, 0
	add := func(sub *submission) {
		if sub.state.CompareAndSwap(queued, taken) {
			group = append(group, sub)
			records += len(sub.records)
			bytes += sub.bytes
		}
	}
	for len(group) == 0 {
		select {
		case sub := <-p.s.queue:
			add(sub)
		case <-ctx.Done():
			return nil
		}
	}
	for records < groupRecords && bytes < groupBytes && len(group) < groupBatches {
		select {
		case sub := <-p.s.queue:
			add(sub)
		default:
			return group
		}
	}
	return group
}

// open makes the client and gets its producer id, which ends whatever transaction an earlier producer with the same transactional id left
// open: committed if Kafka had begun to commit it, aborted otherwise. It tries until ctx is done.
func (p *producer) open(ctx context.Context) error {
	// A request that was lost is noticed only by its time, so the first ones get little; a coordinator that is at work gets more.
	patience := 3 * time.Second
	for pause := 50 * time.Millisecond; p.client == nil; pause = min(2*pause, 2*time.Second) {
		client, err := kgo.NewClient(append(slices.Clone(p.s.deps.Kafka),
			kgo.TransactionalID(p.id),
			kgo.TransactionTimeout(p.s.cfg.TxnTimeout),
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerLinger(0),
			kgo.ProducerBatchMaxBytes(schemas.MaxItemBytes+64<<10),
			kgo.MaxBufferedRecords(groupRecords+MaxItems+1),
			kgo.MetadataMinAge(250*time.Millisecond), // the first record of a topic waits for its partitions
		)...)
		if err == nil {
			ictx, cancel := context.WithTimeout(ctx, patience)
			patience = min(2*patience, 15*time.Second)
			_, _, err = client.ProducerID(ictx)
			cancel()
			if err == nil {
				p.client = client
				p.up.Store(true)
				return nil
			}
			client.Close()
		}
		p.s.log.Warn("connect producer", "transactional_id", p.id, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return ctx.Err()
}

func (p *producer) close() {
	if p.client != nil {
		p.up.Store(false)
		p.client.Close()
		p.client = nil
	}
}

// publish commits a group in one transaction and answers each of its batches.
func (p *producer) publish(ctx context.Context, group []*submission) {
	m, start := p.s.metrics, time.Now()
	if err := p.produce(ctx, group); err != nil {
		// No commit was sent, so nothing is accepted. The next client ends the transaction.
		m.commits.WithLabelValues("failed").Inc()
		p.s.log.Warn("transaction failed; nothing of it was accepted", "transactional_id", p.id, "batches", len(group), "error", err)
		p.refuse(group, err)
		p.broken(err)
		return
	}
	for _, sub := range group {
		p.s.replies.add(sub.key, sub.waiter)
	}
	// A cancelled commit would be an unknown one, so a stop does not cancel it.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.s.cfg.TxnTimeout)
	err := p.client.EndTransaction(cctx, kgo.TryCommit)
	cancel()
	if err != nil {
		p.resolve(ctx, group, err)
		return
	}
	m.commits.WithLabelValues("committed").Inc()
	m.commitSeconds.Observe(time.Since(start).Seconds())
	p.accept(group)
}

// produce writes all records of a group and returns when all are acknowledged; then the batches' offsets are known. The transaction is
// open from here to the commit that follows, and no longer.
func (p *producer) produce(ctx context.Context, group []*submission) error {
	pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.s.cfg.PublishTimeout)
	defer cancel()
	if err := p.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	var mu sync.Mutex
	var first error
	promise := func(r *kgo.Record, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = fmt.Errorf("produce to %s/%d: %w", r.Topic, r.Partition, err)
			}
		}
	}
	for _, sub := range group {
		for _, r := range sub.records {
			p.client.Produce(pctx, r, promise)
		}
	}
	if err := p.client.Flush(pctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	return first
}

// resolve finds out what became of a commit whose outcome is unknown, and answers accordingly: a new client with the same transactional id
// makes Kafka finish or abort the transaction, and then the header of the group's first batch is either there, or it is not.
func (p *producer) resolve(ctx context.Context, group []*submission, cause error) {
	m, log := p.s.metrics, p.s.log.With("transactional_id", p.id, "batches", len(group))
	m.commits.WithLabelValues("unknown").Inc()
	log.Warn("outcome of a commit is unknown; looking it up", "error", cause)
	p.broken(cause)
	first := group[0].records[0]
	for {
		if p.open(ctx) != nil {
			break
		}
		header, err := p.s.recordAt(ctx, first.Topic, first.Partition, first.Offset)
		if err != nil {
			log.Warn("look up a batch header", "topic", first.Topic, "partition", first.Partition, "offset", first.Offset, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
			continue
		}
		if isBatch(header, group[0].key) {
			m.commits.WithLabelValues("found").Inc()
			log.Info("the commit was applied")
			p.accept(group)
			return
		}
		m.commits.WithLabelValues("lost").Inc()
		log.Info("the commit was not applied")
		p.refuse(group, cause)
		return
	}
	log.Error("stopping before the outcome of a commit is known; its requests get no answer", "topic", first.Topic, "partition", first.Partition, "first_offset", first.Offset)
	for _, sub := range group {
		p.s.replies.remove(sub.key, sub.waiter)
		sub.done <- verdict{unknown: unknownStop}
	}
}

// isBatch reports whether a record that should be a batch's header, or nil, is that of the batch with the given key.
func isBatch(header *kgo.Record, key string) bool {
	if header == nil {
		return false
	}
	found, _ := batchOf(header.Headers)
	return string(found) == key
}

func (p *producer) accept(group []*submission) {
	m, items := p.s.metrics, 0
	for _, sub := range group {
		items += sub.items
		p.s.replies.committed(sub.waiter)
		var v verdict
		if sub.repeatable == nil { // else it is accepted when the processor of requests says so
			m.accept(sub)
			v.number = p.s.deps.Epochs.BatchNumber(sub.records[0].Offset)
		}
		sub.done <- v
	}
	m.groupBatches.Observe(float64(len(group)))
	m.groupItems.Observe(float64(items))
}

// accept counts an accepted batch.
func (m *metrics) accept(sub *submission) {
	m.batches.WithLabelValues(sub.door, sub.kind).Inc()
	m.items.WithLabelValues(sub.kind, "judge").Add(float64(sub.toJudge))
	m.items.WithLabelValues(sub.kind, "door").Add(float64(sub.items - sub.toJudge))
}

func (p *producer) refuse(group []*submission, cause error) {
	for _, sub := range group {
		p.s.replies.remove(sub.key, sub.waiter)
		sub.done <- verdict{err: busy("publish", "the batch could not be stored; nothing was accepted, try again later", cause)}
	}
}

// broken drops the client after anything but a clean commit, and counts when another producer was the reason.
func (p *producer) broken(err error) {
	p.close()
	now := time.Now()
	p.fenced = slices.DeleteFunc(p.fenced, func(t time.Time) bool { return now.Sub(t) > time.Minute })
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		p.fenced = append(p.fenced, now)
	}
}
