package schemas

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/singleflight"
)

const (
	// sinkLook is how often the committed offsets are asked for while somebody waits.
	sinkLook = 50 * time.Millisecond
	// sinkLookMost is how long Kafka may take to say what they are.
	sinkLookMost = 5 * time.Second
)

// SinkProgress tells who reads ClickHouse when it is up to date: [GroupSink] commits a position after what lies below it was inserted. The
// zero value is ready, and safe for concurrent use.
type SinkProgress struct {
	look   singleflight.Group // shares one look-up among all who wait
	latest atomic.Pointer[sinkPosition]
}

type sinkPosition struct {
	at        time.Time
	committed kadm.OffsetResponses
}

// Wait returns nil when ClickHouse has everything that was acknowledged in topics before the call. It asks once for their ends and waits
// until the sink's committed offsets have passed them. The error says how far the sink is, where ctx ends the wait, or what Kafka could not
// say; then nothing is known.
//
// The ends are high watermarks: an acknowledged record is below them, while the end of the committed records may still be behind it. A
// partition that never held a record has none to wait for, and one whose records are all gone still has its position committed, because
// the sink's moves over markers, too.
func (p *SinkProgress) Wait(ctx context.Context, admin *kadm.Client, topics ...string) error {
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	for _, topic := range topics {
		if err == nil && len(ends[topic]) == 0 {
			err = fmt.Errorf("no answer for %s", topic)
		}
	}
	if err != nil {
		return fmt.Errorf("ends of %v: %w", topics, err)
	}
	for {
		committed, err := p.committed(ctx, admin)
		if err != nil {
			return fmt.Errorf("committed offsets of %s: %w", GroupSink, err)
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

// committed takes no longer than ctx, while the look-up goes on for the others. An answer of a moment ago is as good as a new one:
// committed offsets only grow, so what they have passed once stays passed.
func (p *SinkProgress) committed(ctx context.Context, admin *kadm.Client) (kadm.OffsetResponses, error) {
	if l := p.latest.Load(); l != nil && time.Since(l.at) < sinkLook/2 {
		return l.committed, nil
	}
	looked := p.look.DoChan("", func() (any, error) {
		lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sinkLookMost)
		defer cancel()
		committed, err := admin.FetchOffsets(lctx, GroupSink)
		if err == nil {
			err = committed.Error()
		}
		if err != nil {
			return nil, err
		}
		p.latest.Store(&sinkPosition{time.Now(), committed})
		return committed, nil
	})
	select {
	case r := <-looked:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(kadm.OffsetResponses), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
