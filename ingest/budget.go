package ingest

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// budget bounds the bytes in flight: bodies at work, and batches that are accepted and not yet judged. When Kafka or the processors stall,
// it fills, and new requests are refused instead of piling up in memory.
type budget struct {
	places *semaphore.Weighted
	used   atomic.Int64
}

func newBudget(size int64) *budget { return &budget{places: semaphore.NewWeighted(size)} }

// acquire takes n bytes, first come first served, or says that there was no place within the time.
func (b *budget) acquire(ctx context.Context, n int64, wait time.Duration) bool {
	if n <= 0 {
		return true
	}
	if !b.places.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if b.places.Acquire(ctx, n) != nil {
			return false
		}
	}
	b.used.Add(n)
	return true
}

func (b *budget) release(n int64) {
	if n > 0 {
		b.places.Release(n)
		b.used.Add(-n)
	}
}

func (b *budget) held() int64 { return b.used.Load() }

// reserve takes n more bytes for a request. They go back when it ends, unless a batch takes them over.
func (s *Service) reserve(r *http.Request, n int64) error {
	q, ok := r.Context().Value(requestKey{}).(*request)
	if !ok { // not served by Handler: nobody would give them back
		return nil
	}
	if !s.budget.acquire(r.Context(), n, s.cfg.BudgetWait) {
		return s.full()
	}
	q.reserved += n
	return nil
}

func (s *Service) full() *Error {
	return busy("budget", "too much is waiting to be judged; nothing was accepted, try again later", nil)
}
