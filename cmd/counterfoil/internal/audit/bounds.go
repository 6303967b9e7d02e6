package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// skew is how far the clocks of producers and of the broker may lie apart: result topics are read from this long before the items, because
// their records bear the time of who wrote them.
const skew = 15 * time.Minute

// look is how often committed offsets are asked for while something is waited for.
const look = 100 * time.Millisecond

// itemTopics are the topics whose records are items.
func itemTopics() []string { return topicsOf(schemas.RoleItem) }

func topicsOf(roles ...schemas.Role) []string {
	var names []string
	for _, t := range schemas.Topics() {
		if slices.Contains(roles, t.Role) {
			names = append(names, t.Name)
		}
	}
	return names
}

// fixBounds fixes from where and how far everything is compared, and returns when all that lies between has come to rest. The package comment
// says why in this order.
func (a *auditor) fixBounds(ctx context.Context) error {
	a.Progress("looking where the topics end")
	a.judged, a.to = map[string][]int64{}, map[string][]int64{}
	headers, err := a.list(ctx, a.Admin.ListCommittedOffsets, schemas.Batches, schemas.Requests)
	if err != nil {
		return err
	}
	if err := a.awaitJudges(ctx, schemas.Requests); err != nil {
		return err
	}
	for range 2 { // items, and what was forwarded of them
		if err := a.awaitJudges(ctx, itemTopics()...); err != nil {
			return err
		}
	}
	maps.Copy(a.judged, headers)
	all := slices.Concat(clickhouse.Topics(), itemTopics(), []string{schemas.RequestAnswers})
	if a.to, err = a.list(ctx, a.Admin.ListEndOffsets, all...); err != nil {
		return err
	}
	written := map[string][]int64{}
	for _, topic := range clickhouse.Topics() {
		written[topic] = a.to[topic]
	}
	if err := a.await(ctx, schemas.GroupSink, written); err != nil {
		return err
	}
	if err := a.Conn.SyncReplicas(ctx); err != nil {
		return err
	}
	return a.fixStarts(ctx, append(all, schemas.Requests))
}

// fixStarts sets from.
func (a *auditor) fixStarts(ctx context.Context, topics []string) error {
	var err error
	if a.from, err = a.list(ctx, a.Admin.ListStartOffsets, topics...); err != nil {
		return err
	}
	results := topicsOf(schemas.RoleProcessed, schemas.RoleUnprocessed, schemas.RoleDeadLetters, schemas.RoleAnswers)
	since := func(at time.Time, topics []string) error {
		first, err := a.list(ctx, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return a.Admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
		}, topics...)
		for topic, offsets := range first {
			for p, offset := range offsets {
				a.from[topic][p] = max(a.from[topic][p], offset)
			}
		}
		return err
	}
	starts := map[string][]int64{}
	for topic, offsets := range a.from {
		starts[topic] = slices.Clone(offsets)
	}
	if !a.Since.IsZero() {
		others := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return slices.Contains(results, t) })
		if err := errors.Join(since(a.Since, others), since(a.Since.Add(-skew), results)); err != nil {
			return err
		}
	}
	for _, topic := range results {
		for p, start := range starts[topic] {
			// Records that retention took away settle items that would seem to have no outcome.
			if start > 0 && a.from[topic][p] == start {
				return fmt.Errorf("topic %s partition %d no longer has its records below offset %d, so that nothing can be proven of what they were about: "+
					"bound the audit with --since to a later time", topic, p, start)
			}
		}
	}
	for topic, offsets := range a.from {
		for p := range offsets {
			if end, ok := a.to[topic]; ok {
				offsets[p] = min(offsets[p], end[p])
			}
		}
	}
	return nil
}

// awaitJudges fixes the ends of topics that processors read, and waits until they have passed them.
func (a *auditor) awaitJudges(ctx context.Context, topics ...string) error {
	ends, err := a.list(ctx, a.Admin.ListEndOffsets, topics...)
	if err != nil {
		return err
	}
	maps.Copy(a.judged, ends)
	for _, group := range slices.Sorted(maps.Keys(a.Judges)) {
		theirs := map[string][]int64{}
		for _, topic := range a.Judges[group] {
			if ends[topic] != nil {
				theirs[topic] = ends[topic]
			}
		}
		if err := a.await(ctx, group, theirs); err != nil {
			return err
		}
	}
	return nil
}

// list asks for offsets of every partition of the topics.
func (a *auditor) list(ctx context.Context, ask func(context.Context, ...string) (kadm.ListedOffsets, error), topics ...string) (map[string][]int64, error) {
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

// await waits until a group's committed offsets have passed the ends.
func (a *auditor) await(ctx context.Context, group string, ends map[string][]int64) error {
	least, moved := int64(-1), time.Now()
	for len(ends) > 0 {
		committed, err := a.Admin.FetchOffsets(ctx, group)
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
		case time.Since(moved) > a.Stuck:
			return fmt.Errorf("group %s has not moved for %s (%s): it must run for an audit, and what it has not read proves nothing yet", group, a.Stuck, where)
		}
		a.Progress(fmt.Sprintf("waiting for group %s (%s)", group, where))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(look):
		}
	}
	return nil
}
