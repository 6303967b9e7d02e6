package processors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/schemas"
)

// takeOverAdopted begins to restore the state of newly assigned partitions, which stay paused so long. The others are judged meanwhile.
func (s *session) takeOverAdopted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := slices.DeleteFunc(s.adopted, func(l *lane) bool { return l.dropped.Load() })
	s.adopted = nil
	if len(lanes) > 0 {
		s.tasks.Go(func() { s.takeOver(lanes) })
	}
}

// complete lets a partition be judged. s.mu is held.
func (s *session) complete(l *lane) {
	if l.dropped.Load() {
		return
	}
	l.restored = true
	s.cl.ResumeFetchPartitions(l.asMap())
	s.p.metrics.setTakeover(l.kind.name, l.partition, takeoverDone)
	s.log.Debug("took a partition over", "topic", l.kind.name, "partition", l.partition, "generation", s.generation, "member", s.member)
}

// takeOver restores lanes, trying again for as long as the broker fails. It begins when the client knows from where they are judged: see
// [session.checkSkipped].
func (s *session) takeOver(lanes []*lane) {
	begun := time.Now()
	for !s.positioned(lanes) {
		select {
		case <-time.After(positionPoll):
		case <-s.work.Done():
			return
		}
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := s.restore(lanes)
		var broken *stateError
		switch {
		case s.work.Err() != nil:
			return
		case err == nil:
			s.p.metrics.takeoverTime.Observe(time.Since(begun).Seconds())
			return
		case errors.As(err, &broken):
			s.mu.Lock()
			s.failure = err
			s.wake()
			s.mu.Unlock()
			return
		}
		s.p.metrics.retries.WithLabelValues("takeover").Inc()
		s.log.Warn("state is not restored yet; trying again", "error", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-s.work.Done():
			return
		}
		s.mu.Lock()
		lanes = slices.DeleteFunc(lanes, func(l *lane) bool { return l.restored || l.dropped.Load() })
		s.mu.Unlock()
		for _, l := range lanes {
			l.clearState()
		}
	}
}

// positioned reports whether the client knows the committed positions of all lanes that are still ours.
func (s *session) positioned(lanes []*lane) bool {
	known := s.cl.CommittedOffsets()
	return !slices.ContainsFunc(lanes, func(l *lane) bool {
		_, ok := known[l.kind.name][l.partition]
		return !ok && !l.dropped.Load()
	})
}

// restore reads the changelogs of each lane, read committed, until it is past the high watermarks that they have now. The predecessor's last
// transaction lies below that mark, whether it was committed or not and whether or not its marker is written yet; the end of the committed
// records may still lie before it (KAFKA-10167). Markers count as positions.
func (s *session) restore(lanes []*lane) error {
	if len(lanes) == 0 {
		return nil
	}
	r := restoring{s: s, open: map[place][]*lane{}}
	ask := map[string][]int32{}
	for _, l := range lanes {
		for _, t := range l.tables() {
			at := place{t.changelog(), l.partition}
			if r.open[at] == nil {
				ask[at.topic] = append(ask[at.topic], at.partition)
			}
			r.open[at] = append(r.open[at], l)
		}
	}
	starts, err := reference.LogStarts(s.work, s.cl, ask)
	if err != nil {
		return err
	}
	if r.ends, err = reference.HighWatermarks(s.work, s.cl, ask); err != nil {
		return err
	}
	from := map[string]map[int32]kgo.Offset{}
	for topic, partitions := range ask {
		for _, partition := range partitions {
			start := starts[topic][partition]
			if start >= r.ends[topic][partition] {
				r.done(place{topic, partition})
				continue
			}
			if from[topic] == nil {
				from[topic] = map[int32]kgo.Offset{}
			}
			from[topic][partition] = kgo.NewOffset().At(start)
		}
	}
	if len(r.open) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(slices.Concat(s.p.deps.Kafka, consumerOptions(), []kgo.Opt{kgo.ConsumePartitions(from)})...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	return r.read(cl)
}

// restoring is a take-over under way.
type restoring struct {
	s    *session
	ends map[string]map[int32]int64
	open map[place][]*lane // partitions of changelogs that are not read to their end, with the lanes that need them
}

// done completes the lanes for which a partition was the last one.
func (r *restoring) done(at place) {
	lanes := r.open[at]
	delete(r.open, at)
	for _, l := range lanes {
		waits := false
		for _, others := range r.open {
			waits = waits || slices.Contains(others, l)
		}
		if !waits {
			r.s.restored(l)
		}
	}
}

func (r *restoring) read(cl *kgo.Client) error {
	for len(r.open) > 0 {
		fetches := cl.PollFetches(r.s.work)
		for _, e := range fetches.Errors() {
			return fmt.Errorf("read changelog %s partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		var failed error
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			at := place{p.Topic, p.Partition}
			if failed != nil || len(p.Records) == 0 {
				return
			}
			for _, l := range r.open[at] {
				if failed = r.s.restoreRecords(l, p.Records); failed != nil {
					return
				}
			}
			if p.Records[len(p.Records)-1].Offset+1 >= r.ends[p.Topic][p.Partition] {
				r.done(at)
			}
		})
		if failed != nil {
			return failed
		}
		for at, lanes := range r.open {
			if r.open[at] = slices.DeleteFunc(lanes, func(l *lane) bool { return l.dropped.Load() }); len(r.open[at]) == 0 {
				delete(r.open, at)
			}
		}
	}
	return nil
}

// restoreRecords applies a part of a changelog. It waits for a schema that the registry has not answered for.
func (s *session) restoreRecords(l *lane, records []*kgo.Record) error {
	tables := l.tables()
	table := tables[slices.IndexFunc(tables, func(t state) bool { return t.changelog() == records[0].Topic })]
	for _, rec := range records {
		if rec.Attrs.IsControl() {
			continue
		}
		err := table.restore(rec)
		for errors.Is(err, schemas.ErrSchemaPending) {
			select {
			case <-time.After(waitingPoll):
			case <-s.work.Done():
				return context.Cause(s.work)
			}
			err = table.restore(rec)
		}
		if err != nil {
			return &stateError{fmt.Errorf("changelog %s partition %d offset %d cannot be read, so the state cannot be trusted: %w", rec.Topic, rec.Partition, rec.Offset, err)}
		}
	}
	return nil
}

func (s *session) restored(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete(l)
}
