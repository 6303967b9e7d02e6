package processors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
)

// Calls finds the calls that sales may be matched to.
type Calls interface {
	// FindCalls answers each query, in their order, from all calls that the sink has committed.
	FindCalls(ctx context.Context, queries []schemas.CallQuery) ([]schemas.CallsFound, error)
}

// longWait is after how long a round that waits for the sink says so.
const longWait = 10 * time.Second

// findMost is how long ClickHouse may take to find the calls of a round; one that takes longer is made smaller. A variable for the tests.
var findMost = 30 * time.Second

// mostRefusals is how often in a row ClickHouse may answer that it does not want to do so much, as it does while others keep it busy.
const mostRefusals = 3

var errTooSlow = errors.New("finding the calls of so many sales takes too long")

// lookUpCalls asks once for all calls that the round's decisions must know. The round was polled before, so it waits first until ClickHouse
// has every call that was acknowledged by now: those that were there before one of its items was sent are among them. While Kafka or
// ClickHouse cannot answer, it waits; nothing is judged without the calls.
func (r *round) lookUpCalls(ctx context.Context) error {
	if r.s.p.deps.Calls == nil {
		return nil // no kind of this processor asks
	}
	_ = r.each(func(w portion) error {
		if w.lane.kind.calls {
			w.lane.ask(w.records)
		}
		return nil
	})
	var queries []schemas.CallQuery
	for _, w := range r.work {
		queries = append(queries, w.lane.queries...)
	}
	if len(queries) == 0 {
		return nil
	}
	if err := r.awaitCalls(ctx); err != nil {
		return err
	}
	found, err := r.findCalls(ctx, queries)
	if errors.Is(err, schemas.ErrQueryTooHeavy) && len(queries) == 1 {
		r.refused(&queries[0], err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, w := range r.work {
		n := len(w.lane.queries)
		w.lane.found, found = found[:n:n], found[n:]
	}
	return nil
}

// findCalls asks until there is an answer. Where ClickHouse takes too long over a round, or says that it is too much, asking the same again
// would not end: the round is given up, and the next ones are smaller. A single query that is too much is the caller's to settle; the error
// is schemas.ErrQueryTooHeavy then. Everything else, as ClickHouse that cannot be reached, passes some time.
func (r *round) findCalls(ctx context.Context, queries []schemas.CallQuery) (found []schemas.CallsFound, err error) {
	var tooMuch error
	refusals := 0
	err = r.insist(ctx, "find calls", func() error {
		begun := time.Now()
		bound, cancel := context.WithTimeout(ctx, findMost)
		defer cancel()
		var err error
		if found, err = r.s.p.deps.Calls.FindCalls(bound, queries); err != nil {
			if !errors.Is(err, schemas.ErrQueryTooHeavy) {
				refusals = 0
			} else if refusals++; refusals == mostRefusals {
				tooMuch = err
			}
			if bound.Err() != nil && ctx.Err() == nil && len(queries) > 1 {
				tooMuch = errTooSlow
			}
			if tooMuch != nil {
				return nil
			}
			return err
		}
		r.asking = time.Since(begun)
		r.s.p.metrics.lookUp.WithLabelValues(schemas.Calls).Observe(r.asking.Seconds())
		return checkFound(queries, found)
	})
	if err == nil && tooMuch != nil {
		if len(queries) > 1 {
			r.s.limit = max(1, min(r.s.limit, r.count)/2)
			r.s.log.Warn("round given up; the next ones are smaller", "error", tooMuch, "sales", len(queries), "limit", r.s.limit)
		}
		return nil, tooMuch
	}
	return found, err
}

// refused lets the only sale of a round that asks for calls be unprocessed by a fault of ours, so that those behind it are judged. It can be
// replayed.
func (r *round) refused(query *schemas.CallQuery, why error) {
	for _, w := range r.work {
		for i, place := range w.lane.places {
			if place >= 0 {
				w.lane.places[i] = askingFailed
				rec := w.records[i]
				r.s.p.metrics.refused.Inc()
				r.s.log.Error("the calls of a sale are too many to look through: it is unprocessed", "tenant", query.Tenant, "topic", rec.Topic, "partition", rec.Partition,
					"offset", rec.Offset, "mhid", query.MHID != "", "numbers", len(query.Numbers), "until", query.Until, "error", why)
			}
		}
	}
}

// awaitCalls is the barrier on calls.
func (r *round) awaitCalls(ctx context.Context) error {
	begun := time.Now()
	defer time.AfterFunc(longWait, func() {
		r.s.log.Warn("sales wait until the sink has committed the calls that were there before them", "group", schemas.GroupSink, "topic", schemas.Calls)
	}).Stop()
	err := r.insist(ctx, "calls barrier", func() error {
		return r.s.p.sink.Wait(ctx, kadm.NewClient(r.s.cl), schemas.Calls)
	})
	if err == nil {
		r.s.p.metrics.sinkWait.WithLabelValues(schemas.Calls).Observe(time.Since(begun).Seconds())
	}
	return err
}

// insist repeats f until it returns nil or ctx is done.
func (r *round) insist(ctx context.Context, what string, f func() error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.s.p.metrics.retries.WithLabelValues(what).Inc()
		r.s.log.Warn("round waits; trying again", "what", what, "error", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkFound holds an answer against what was asked.
func checkFound(queries []schemas.CallQuery, found []schemas.CallsFound) error {
	if len(found) != len(queries) {
		return fmt.Errorf("%d answers to %d queries", len(found), len(queries))
	}
	for i := range queries {
		if len(found[i].Numbers) != len(queries[i].Numbers) {
			return fmt.Errorf("query %d: %d answers to %d numbers", i, len(found[i].Numbers), len(queries[i].Numbers))
		}
	}
	return nil
}
