package processors

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/reference"
)

// round judges what one poll returned and commits it whole.
type round struct {
	s     *session
	work  []portion
	count int // records that are not markers
	// asking is how long ClickHouse took to find the calls of the round, where it was asked.
	asking time.Duration
}

// portion is what was polled of one partition.
type portion struct {
	lane    *lane
	records []*kgo.Record
}

func newRound(s *session) *round { return &round{s: s} }

// run: sort → learn → decide → produce → commit → keep. An error means that the session must be given up.
func (r *round) run(fetches kgo.Fetches) error {
	if !r.sort(fetches) {
		return r.s.abort()
	}
	if r.count == 0 {
		// Markers only: the position moves with the next commit, or when there is nothing else to do.
		r.s.moved = true
		return nil
	}
	if err := r.learn(); err != nil {
		return r.s.abort()
	}
	begun := time.Now()
	if err := r.decide(); err != nil {
		return err
	}
	r.adapt(time.Since(begun))
	if err := r.produce(); err != nil {
		return err
	}
	committed, err := r.s.end(r.positions())
	if err != nil || !committed {
		return err
	}
	r.s.p.metrics.rounds.WithLabelValues("committed").Inc()
	r.s.p.metrics.roundRecords.Observe(float64(r.count))
	for _, w := range r.work {
		w.lane.keep()
	}
	r.s.rewind(r.stops())
	return nil
}

// sort assigns what was polled to its lanes, without what they have judged already; false where some of it is no longer ours.
func (r *round) sort(fetches kgo.Fetches) (ours bool) {
	clear(r.work)
	r.work, r.count, r.asking = r.work[:0], 0, 0
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	ours = true
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		l := r.s.lanes[place{p.Topic, p.Partition}]
		if l == nil || !l.restored || l.waiting != nil {
			ours = false
			return
		}
		records := l.unjudged(p.Records)
		if len(records) == 0 {
			return
		}
		for _, rec := range records {
			if !rec.Attrs.IsControl() {
				r.count++
			}
		}
		for i := range r.work {
			if r.work[i].lane == l {
				r.work[i].records = slices.Concat(r.work[i].records, records)
				return
			}
		}
		r.work = append(r.work, portion{l, records})
	})
	return ours && !r.s.revoked
}

// learn waits for what the round's decisions may depend on. It gives way, with an error, to a rebalance.
func (r *round) learn() error {
	if r.s.p.tables == nil && r.s.p.deps.Calls == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(r.s.work)
	defer cancel()
	go func() {
		select {
		case <-r.s.rebalance:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := r.awaitReferences(ctx); err != nil {
		return err
	}
	return r.lookUpCalls(ctx)
}

// awaitReferences is the barrier: the round was polled before, so every reference record that was acknowledged before one of its items was
// sent is in the tables when it returns nil.
func (r *round) awaitReferences(ctx context.Context) error {
	var used []*kind
	for _, k := range r.s.p.kinds {
		for _, w := range r.work {
			if w.lane.kind == k {
				used = append(used, k)
				break
			}
		}
	}
	topics := referencesOf(used)
	if len(topics) == 0 {
		return nil
	}
	return r.s.p.tables.WaitFor(ctx, topics)
}

// decide judges the partitions side by side, on their overlays.
func (r *round) decide() error {
	var view reference.View
	if r.s.p.tables != nil {
		view = r.s.p.tables.Hold()
		defer view.Release()
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	return r.each(func(w portion) error { return w.lane.judgeAll(w.records, view, now) })
}

// each does f for every partition, side by side where there is enough to do.
func (r *round) each(f func(w portion) error) error {
	workers := min(runtime.GOMAXPROCS(0), len(r.work), 1+r.count/64)
	if workers == 1 {
		for _, w := range r.work {
			if err := f(w); err != nil {
				return err
			}
		}
		return nil
	}
	var next atomic.Int32
	errs := make([]error, len(r.work))
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(r.work) {
					return
				}
				errs[i] = f(r.work[i])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// adapt keeps the time of a round near RoundTime, and what it asks of ClickHouse far from findMost.
func (r *round) adapt(took time.Duration) {
	limit, most := r.s.p.cfg.RoundTime, r.s.p.cfg.RoundRecords
	switch {
	case took > limit:
		r.s.limit = max(1, min(r.s.limit, r.count)/2)
	case took < limit/2 && r.asking < findMost/4:
		r.s.limit = min(most, r.s.limit+r.s.limit/4+1)
	}
}

// produce opens the transaction and writes everything that the round made; what depends on where that lies comes in a second step. A record
// that could not be written ends the session: franz-go would commit the others.
func (r *round) produce() error {
	if err := r.s.gts.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	var once sync.Once
	var failed error
	promise := func(rec *kgo.Record, err error) {
		if err != nil {
			once.Do(func() { failed = fmt.Errorf("write to %s partition %d: %w", rec.Topic, rec.Partition, err) })
		}
	}
	flush := func() error {
		if err := r.s.cl.Flush(r.s.work); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		return failed
	}
	late := false
	for _, w := range r.work {
		for i := range w.lane.out.records {
			r.s.gts.Produce(r.s.work, &w.lane.out.records[i], promise)
		}
		late = late || w.lane.requests != nil
	}
	if err := flush(); err != nil || !late {
		return err
	}
	for _, w := range r.work {
		if w.lane.requests == nil {
			continue
		}
		from := len(w.lane.out.records)
		if err := w.lane.requests.settle(); err != nil {
			return err
		}
		for i := range w.lane.out.records[from:] {
			r.s.gts.Produce(r.s.work, &w.lane.out.records[from+i], promise)
		}
	}
	return flush()
}

// positions are those up to which the partitions of the round have been judged.
func (r *round) positions() map[place]int64 {
	all := make(map[place]int64, len(r.work))
	for _, w := range r.work {
		all[w.lane.place()] = w.lane.next
	}
	return all
}

// stops are the positions of the partitions that wait at a record.
func (r *round) stops() map[place]int64 {
	var stops map[place]int64
	for _, w := range r.work {
		if w.lane.stopped {
			if stops == nil {
				stops = map[place]int64{}
			}
			stops[w.lane.place()] = w.lane.next
		}
	}
	return stops
}
