package ingest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/singleflight"

	"github.com/counterfoil/counterfoil/schemas"
)

// sinkLook is how often the committed offsets are asked for while somebody waits.
const sinkLook = 50 * time.Millisecond

// sinkLookMost is how long Kafka may take to say what they are.
const sinkLookMost = 5 * time.Second

// sinkOffsets shares one look-up among all who wait. An answer of a moment ago is as good as a new one: committed offsets only grow, so what
// they have passed once stays passed.
type sinkOffsets struct {
	look   singleflight.Group
	latest atomic.Pointer[sinkOffset]
}

type sinkOffset struct {
	at        time.Time
	committed kadm.OffsetResponses
}

// get gives the committed offsets. It takes no longer than ctx, while the look-up goes on for the others.
func (o *sinkOffsets) get(ctx context.Context, rt *routing) (kadm.OffsetResponses, error) {
	if l := o.latest.Load(); l != nil && time.Since(l.at) < sinkLook/2 {
		return l.committed, nil
	}
	looked := o.look.DoChan("", func() (any, error) {
		lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sinkLookMost)
		defer cancel()
		committed, err := rt.admin.FetchOffsets(lctx, schemas.GroupSink)
		if err == nil {
			err = committed.Error()
		}
		if err != nil {
			return nil, err
		}
		o.latest.Store(&sinkOffset{time.Now(), committed})
		return committed, nil
	})
	select {
	case r := <-looked:
		if committed, ok := r.Val.(kadm.OffsetResponses); ok {
			return committed, nil
		}
		return nil, fmt.Errorf("committed offsets of %s: %w", schemas.GroupSink, r.Err)
	case <-ctx.Done():
		return nil, fmt.Errorf("committed offsets of %s: %w", schemas.GroupSink, ctx.Err())
	}
}

// WaitForSink waits until ClickHouse has everything that was acknowledged in the given topics before the call, so that what is read then is
// no older. The error is an *[Error] with CodeBusy when that takes longer than the configured time.
//
// It waits for the high watermarks: an acknowledged record is below them, while the end of the committed records may still be behind it.
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
	if err := s.waitForSink(wctx, rt, topics); err != nil {
		return s.refuse(busy("sink", "what was written last is not in the reports yet; try again later", err))
	}
	return nil
}

func (s *Service) waitForSink(ctx context.Context, rt *routing, topics []string) error {
	ends, err := rt.admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("ends of %v: %w", topics, err)
	}
	for {
		committed, err := s.sink.get(ctx, rt)
		if err != nil {
			return err
		}
		behind := ""
		ends.Each(func(end kadm.ListedOffset) {
			if c, ok := committed.Lookup(end.Topic, end.Partition); end.Offset > 0 && (!ok || c.At < end.Offset) {
				behind = fmt.Sprintf("%s/%d: at %d of %d", end.Topic, end.Partition, c.At, end.Offset)
			}
		})
		if behind == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", behind, ctx.Err())
		case <-time.After(sinkLook):
		}
	}
}

// readFrom are the topics that what is known of a kind's batch comes from.
func readFrom(kind string) []string {
	kind = resultKind(kind)
	return []string{schemas.Batches, schemas.ProcessedTopic(kind), schemas.UnprocessedTopic(kind)}
}
