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

// takeOverAdopted begins to restore the state of newly assigned partitions, which stay paused so long; those without state go on at once.
// The others are judged meanwhile.
func (s *session) takeOverAdopted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stateful []*lane
	for _, l := range s.adopted {
		switch {
		case l.dropped.Load():
		case l.state == nil:
			s.complete(l)
		default:
			stateful = append(stateful, l)
		}
	}
	s.adopted = nil
	if len(stateful) > 0 {
		s.tasks.Go(func() { s.takeOver(stateful) })
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
}

// takeOver restores lanes, trying again for as long as the broker fails.
func (s *session) takeOver(lanes []*lane) {
	begun := time.Now()
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

// restore reads the changelog of each lane, read committed, until it is past the high watermark that the changelog has now. The
// predecessor's last transaction lies below that mark, whether it was committed or not and whether or not its marker is written yet; the
// end of the committed records may still lie before it (KAFKA-10167). Markers count as positions.
func (s *session) restore(lanes []*lane) error {
	if len(lanes) == 0 {
		return nil
	}
	ask := map[string][]int32{}
	for _, l := range lanes {
		topic := schemas.StateTopic(l.kind.name)
		ask[topic] = append(ask[topic], l.partition)
	}
	ends, err := reference.HighWatermarks(s.work, s.cl, ask)
	if err != nil {
		return err
	}
	starts, err := reference.LogStarts(s.work, s.cl, ask)
	if err != nil {
		return err
	}
	open := map[place]*lane{}
	from := map[string]map[int32]kgo.Offset{}
	for _, l := range lanes {
		topic := schemas.StateTopic(l.kind.name)
		if from[topic] == nil {
			from[topic] = map[int32]kgo.Offset{}
		}
		start := starts[topic][l.partition]
		if start >= ends[topic][l.partition] {
			s.restored(l)
			continue
		}
		from[topic][l.partition] = kgo.NewOffset().At(start)
		open[place{topic, l.partition}] = l
	}
	if len(open) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(slices.Concat(s.p.deps.Kafka, consumerOptions(), []kgo.Opt{kgo.ConsumePartitions(from)})...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	return s.readChangelogs(cl, open, ends)
}

func (s *session) readChangelogs(cl *kgo.Client, open map[place]*lane, ends map[string]map[int32]int64) error {
	for len(open) > 0 {
		fetches := cl.PollFetches(s.work)
		for _, e := range fetches.Errors() {
			return fmt.Errorf("read changelog %s partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		var failed error
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			at := place{p.Topic, p.Partition}
			l := open[at]
			if l == nil || failed != nil || len(p.Records) == 0 {
				return
			}
			if failed = s.restoreRecords(l, p.Records); failed != nil {
				return
			}
			if p.Records[len(p.Records)-1].Offset+1 >= ends[p.Topic][p.Partition] {
				s.restored(l)
				delete(open, at)
			}
		})
		if failed != nil {
			return failed
		}
		for at, l := range open {
			if l.dropped.Load() {
				delete(open, at)
			}
		}
	}
	return nil
}

// restoreRecords applies a part of the changelog. It waits for a schema that the registry has not answered for.
func (s *session) restoreRecords(l *lane, records []*kgo.Record) error {
	for _, rec := range records {
		if rec.Attrs.IsControl() {
			continue
		}
		err := l.state.restore(rec)
		for errors.Is(err, schemas.ErrSchemaPending) {
			select {
			case <-time.After(waitingPoll):
			case <-s.work.Done():
				return context.Cause(s.work)
			}
			err = l.state.restore(rec)
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
