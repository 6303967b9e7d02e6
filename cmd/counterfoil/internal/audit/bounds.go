package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// skew is how far the clocks of producers and of the broker may lie apart: result topics are read from this long before the items, because
// their records bear the time of who wrote them.
const skew = 15 * time.Minute

// itemTopics are the topics whose records are items.
func itemTopics() []string { return schemas.TopicNames(schemas.RoleItem) }

// fixBounds fixes from where and how far everything is compared, and returns when all that lies between has come to rest. The package comment
// says why in this order.
func (a *auditor) fixBounds(ctx context.Context) error {
	a.Progress("looking where the topics end")
	a.judged, a.to = map[string][]int64{}, map[string][]int64{}
	headers, err := offsets.List(ctx, a.Admin.ListCommittedOffsets, schemas.Batches, schemas.Requests)
	if err != nil {
		return err
	}
	groups := offsets.Waiter{Admin: a.Admin, Judges: a.Judges, Stuck: a.Stuck, Progress: a.Progress}
	for _, topics := range [][]string{{schemas.Requests}, itemTopics(), itemTopics()} { // items, and what was forwarded of them
		ends, err := groups.AwaitJudges(ctx, topics...)
		if err != nil {
			return err
		}
		maps.Copy(a.judged, ends)
	}
	maps.Copy(a.judged, headers)
	all := slices.Concat(clickhouse.Topics(), itemTopics(), []string{schemas.RequestAnswers})
	if a.to, err = offsets.List(ctx, a.Admin.ListEndOffsets, all...); err != nil {
		return err
	}
	if err := a.awaitSink(ctx, a.to); err != nil {
		return err
	}
	return a.fixStarts(ctx, append(all, schemas.Requests))
}

// awaitSink returns when the tables have what lies below the ends of the sink's topics, everywhere.
func (a *auditor) awaitSink(ctx context.Context, ends map[string][]int64) error {
	written := map[string][]int64{}
	for _, topic := range clickhouse.Topics() {
		written[topic] = ends[topic]
	}
	groups := offsets.Waiter{Admin: a.Admin, Judges: a.Judges, Stuck: a.Stuck, Progress: a.Progress}
	if err := groups.Await(ctx, schemas.GroupSink, written); err != nil {
		return err
	}
	return a.Conn.SyncReplicas(ctx)
}

// fixStarts sets from.
func (a *auditor) fixStarts(ctx context.Context, topics []string) error {
	var err error
	if a.from, err = offsets.List(ctx, a.Admin.ListStartOffsets, topics...); err != nil {
		return err
	}
	results := schemas.TopicNames(schemas.RoleProcessed, schemas.RoleUnprocessed, schemas.RoleDeadLetters, schemas.RoleAnswers)
	since := func(at time.Time, topics []string) error {
		first, err := offsets.List(ctx, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return a.Admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
		}, topics...)
		for topic, firsts := range first {
			for p, offset := range firsts {
				a.from[topic][p] = max(a.from[topic][p], offset)
			}
		}
		return err
	}
	starts := map[string][]int64{}
	for topic, begin := range a.from {
		starts[topic] = slices.Clone(begin)
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
	for topic, begin := range a.from {
		for p := range begin {
			if end, ok := a.to[topic]; ok {
				begin[p] = min(begin[p], end[p])
			}
		}
	}
	return nil
}
