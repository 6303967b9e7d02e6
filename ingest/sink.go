package ingest

import (
	"context"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
)

// WaitForSink waits until ClickHouse has everything that was acknowledged in the given topics before the call, so that what is read then is
// no older. The error is an *[Error] with CodeBusy when that takes longer than the configured time.
func (s *Service) WaitForSink(ctx context.Context, topics ...string) error {
	rt := s.route.Load()
	if rt == nil {
		return s.refuse(busy("starting", "the service is starting; try again later", nil))
	}
	wait := s.cfg.SinkWait
	if time.Since(s.started) < s.cfg.SinkWaitStart { // the sink may have to take over first
		wait = max(wait, s.cfg.SinkWaitStart)
	}
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if err := s.sink.Wait(wctx, rt.admin, topics...); err != nil {
		return s.refuse(busy("sink", "what was written last is not in the reports yet; try again later", err))
	}
	return nil
}

// readFrom are the topics that what is known of a kind's batch comes from.
func readFrom(kind string) []string {
	kind = resultKind(kind)
	return []string{schemas.Batches, schemas.ProcessedTopic(kind), schemas.UnprocessedTopic(kind)}
}
