// Package offsets asks how far topics and consumer groups are, and waits for groups, for the commands that look at what has come to rest on a
// running installation.
package offsets

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// look is how often committed offsets are asked for while something is waited for.
const look = 100 * time.Millisecond

// List asks for offsets of every partition of the topics, in the order of the partitions.
func List(ctx context.Context, ask func(context.Context, ...string) (kadm.ListedOffsets, error), topics ...string) (map[string][]int64, error) {
	if len(topics) == 0 {
		return map[string][]int64{}, nil // asked for none, Kafka answers for all
	}
	listed, err := ask(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for offsets of %d topics: %w", len(topics), err)
	}
	offsets := map[string][]int64{}
	for _, topic := range topics {
		for p := range int32(len(listed[topic])) {
			l, ok := listed.Lookup(topic, p)
			if !ok {
				return nil, fmt.Errorf("Kafka did not say all offsets of topic %s: try again", topic)
			}
			offsets[topic] = append(offsets[topic], l.Offset)
		}
		if offsets[topic] == nil {
			return nil, fmt.Errorf("topic %s does not exist: run counterfoil migrate first", topic)
		}
	}
	return offsets, nil
}

// Waiter waits for consumer groups.
type Waiter struct {
	Admin  *kadm.Client
	Judges map[string][]string // the processors' groups, with the topics that each of them reads
	Stuck  time.Duration       // how long to wait for a group that does not move
	// Progress is told what is waited for, several times a second.
	Progress func(doing string)
}

// AwaitJudges fixes the ends of topics that processors read, waits until they have passed them, and returns them.
func (w *Waiter) AwaitJudges(ctx context.Context, topics ...string) (map[string][]int64, error) {
	ends, err := List(ctx, w.Admin.ListEndOffsets, topics...)
	if err != nil {
		return nil, err
	}
	return ends, w.AwaitJudged(ctx, ends)
}

// AwaitJudged waits until the processors have passed offsets of topics that they read.
func (w *Waiter) AwaitJudged(ctx context.Context, ends map[string][]int64) error {
	for _, group := range slices.Sorted(maps.Keys(w.Judges)) {
		theirs := map[string][]int64{}
		for _, topic := range w.Judges[group] {
			if ends[topic] != nil {
				theirs[topic] = ends[topic]
			}
		}
		if err := w.Await(ctx, group, theirs); err != nil {
			return err
		}
	}
	return nil
}

// Await waits until a group's committed offsets have passed the ends. It fails where the group does not move.
func (w *Waiter) Await(ctx context.Context, group string, ends map[string][]int64) error {
	least, moved := int64(-1), time.Now()
	for len(ends) > 0 {
		committed, err := w.Admin.FetchOffsets(ctx, group)
		if err == nil {
			err = committed.Error()
		}
		if err != nil {
			return fmt.Errorf("committed offsets of group %s: %w", group, err)
		}
		left, where := int64(0), ""
		for topic, offsets := range ends {
			for p, end := range offsets {
				c, ok := committed.Lookup(topic, int32(p))
				if !ok {
					c.At = 0
				}
				if end > 0 && c.At < end {
					left += end - c.At
					where = fmt.Sprintf("%s/%d: at %d of %d", topic, p, c.At, end)
				}
			}
		}
		switch {
		case left == 0:
			return nil
		case left < least || least < 0:
			least, moved = left, time.Now()
		case time.Since(moved) > w.Stuck:
			return fmt.Errorf("group %s has not moved for %s (%s): it must run, because nothing is known of what it has not read yet", group, w.Stuck, where)
		}
		w.Progress(fmt.Sprintf("waiting for group %s (%s)", group, where))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(look):
		}
	}
	return nil
}
