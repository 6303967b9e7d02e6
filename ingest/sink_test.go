package ingest_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// Many wait for the sink while Kafka does not answer: they share one question, and none waits for longer than it wants to.
func TestWaitingForTheSinkSharesOneLookUpAndHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	n := &wire{}
	s := w.startOn(t, n, map[string]string{"SINK_WAIT": "10s"})
	w.commitEnds(t, schemas.GroupSink)
	if err := s.WaitForSink(t.Context(), schemas.Batches); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // until that answer is old
	var asked atomic.Int32
	n.set(func(k kmsg.Key) fate {
		if k == kmsg.OffsetFetch {
			asked.Add(1)
			return stall
		}
		return pass
	})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { _ = s.WaitForSink(ctx, schemas.Batches) })
	for asked.Load() == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	begun := time.Now()
	var short sync.WaitGroup
	for range 50 {
		short.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			if err := s.WaitForSink(ctx, schemas.Batches); err == nil {
				t.Error("there was an answer")
			}
		})
	}
	short.Wait()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("who wanted to wait 200ms waited %s", took)
	}
	if n := asked.Load(); n > 10 { // the look at the backlog asks too, once a second
		t.Errorf("Kafka was asked %d times", n)
	}
	n.set(func(kmsg.Key) fate { return pass })
}
