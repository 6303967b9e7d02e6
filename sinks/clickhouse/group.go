package clickhouse

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// assigned begins a take-over. A callback of the client, before anything of these partitions is fetched.
func (s *Sink) assigned(_ context.Context, client *kgo.Client, assigned map[string][]int32) {
	// Nothing is read from a partition before its tables have been asked what they have.
	client.PauseFetchPartitions(assigned)
	s.decoding.Lock()
	defer s.decoding.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = true
	member, _ := client.GroupMetadata()
	for _, p := range s.parts {
		if p.member != member { // kept over an expulsion
			s.stop(errExpelled)
			return
		}
	}
	byShard := make([][]*part, len(s.conn.shards))
	for topic, partitions := range assigned {
		plan := s.topics[topic]
		for _, n := range partitions {
			shard := s.conn.shardOf(topic, n)
			p := &part{
				topicPartition: topicPartition{topic, n}, epoch: plan.epoch, block: plan.block, dests: plan.dests[shard],
				member: member, has: map[*dest]int64{}, done: map[*dest]int64{},
			}
			if old := s.parts[p.topicPartition]; old != nil {
				old.gone = true
			}
			s.parts[p.topicPartition] = p
			byShard[shard] = append(byShard[shard], p)
		}
	}
	for _, parts := range byShard {
		if len(parts) > 0 && s.ctx.Err() == nil {
			s.work.Go(func() { s.takeOver(parts) })
		}
	}
}

// revoked gives partitions up in good order. A callback of the client, while this member still owns them.
func (s *Sink) revoked(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
	s.giveUp(revoked)
}

// lost drops partitions that the group took away without asking: their commits are fenced, their lease runs out, and whoever has them now
// waits for that. What was read of them is dropped; an insert under way ends as it will.
func (s *Sink) lost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	s.decoding.Lock()
	defer s.decoding.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range lost {
		for _, n := range partitions {
			s.forget(s.parts[topicPartition{topic, n}])
		}
	}
	s.changed.Broadcast()
}

// forget ends a part. Under mu.
func (s *Sink) forget(p *part) {
	if p == nil || s.parts[p.topicPartition] != p {
		return
	}
	p.gone, p.active, p.waiting = true, false, nil
	delete(s.parts, p.topicPartition)
	b := s.blocks[p.block]
	delete(b.next, p)
	s.met.forget(p.topicPartition)
	for _, f := range b.fills {
		before := f.rows()
		f.dropGone()
		b.rows -= before - f.rows()
	}
}

// giveUp works partitions off, releases them and forgets them. It runs in a callback of the client, which keeps Run from decoding, or at
// the end of Run.
func (s *Sink) giveUp(revoked map[string][]int32) {
	s.decoding.Lock()
	defer s.decoding.Unlock()
	s.mu.Lock()
	var parts []*part
	for topic, partitions := range revoked {
		for _, n := range partitions {
			if p := s.parts[topicPartition{topic, n}]; p != nil {
				parts = append(parts, p)
			}
		}
	}
	if len(parts) == 0 {
		s.mu.Unlock()
		return
	}
	if member, _ := s.client.GroupMetadata(); slices.ContainsFunc(parts, func(p *part) bool { return p.member != member }) {
		// They were lost before, and nobody waits for an answer.
		s.stop(errExpelled)
		for _, p := range parts {
			s.forget(p)
		}
		s.mu.Unlock()
		return
	}
	// All of each block goes: it is one insert, and the others' rows are due soon anyway. Queues are short, so this may exceed their limit.
	for i := range s.blocks {
		s.enqueue(i)
	}
	late := false
	timer := time.AfterFunc(s.drainWait(), func() {
		s.mu.Lock()
		late = true
		s.mu.Unlock()
		s.changed.Broadcast()
	})
	for !late && s.ctx.Err() == nil && s.atWork(parts, true) {
		s.changed.Wait()
	}
	timer.Stop()
	// What is still being inserted is cut off; its outcome is unknown, so that its partitions leave without "released" and their next
	// owner waits for write_by to pass.
	for _, d := range s.dests {
		if d.cancel != nil && slices.ContainsFunc(parts, func(p *part) bool { return d.holds(p) }) {
			d.cancel()
		}
	}
	clean := map[*part]int64{}
	for _, p := range parts {
		// One that was still being taken over may have a predecessor at work: its commit stays as it is.
		if p.active && !s.atWork([]*part{p}, false) {
			clean[p] = p.flushed()
			p.active = false // so that no commit of the keeper calls it held again
		} else {
			s.forget(p)
		}
	}
	s.changed.Broadcast()
	s.mu.Unlock()

	if err := s.release(clean); err != nil {
		s.log.Warn("sink could not release partitions; their next owner waits for the lease", "partitions", len(clean), "error", err)
	}

	s.mu.Lock()
	for p := range clean {
		s.forget(p)
	}
	s.changed.Broadcast()
	s.mu.Unlock()
}

// atWork reports whether rows of the partitions are still on their way to a table; with working, to one that takes rows. Under mu.
func (s *Sink) atWork(parts []*part, working bool) bool {
	for _, d := range s.dests {
		if working && d.refused != nil {
			continue
		}
		for _, p := range parts {
			if d.holds(p) {
				return true
			}
		}
	}
	return false
}
