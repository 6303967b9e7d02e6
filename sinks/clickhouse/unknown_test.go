package clickhouse

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// The answer to an insert is lost, and the questions after it fail for a while: the rows are not sent again before the table has been asked.
func TestRowsAreNotSentAgainWhileNobodyAnswers(t *testing.T) {
	r := newRig(t)
	var lost atomic.Bool
	var silentUntil atomic.Int64
	s := r.start(func(s *Sink) {
		clock := s.clock
		s.clock = func(ctx context.Context) (time.Time, error) {
			if time.Now().UnixNano() < silentUntil.Load() {
				return time.Time{}, errors.New("no answer")
			}
			return clock(ctx)
		}
		s.hook = func(_ context.Context, at, table string) error {
			if at == "after send" && table == "ownership" && lost.CompareAndSwap(false, true) {
				silentUntil.Store(time.Now().Add(3 * time.Second).UnixNano())
				return errors.New("the answer was lost")
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	r.produce(r.ownerships(100, 200)...)
	r.exact(200)
	if !lost.Load() {
		t.Error("no answer was lost")
	}
	must(t, s.stop())
}
