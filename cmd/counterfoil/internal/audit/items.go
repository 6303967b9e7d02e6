package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// attempt is how an item's attempt is compared.
func attempt(n int32) string { return strconv.Itoa(int(n)) }

// counts reports whether what settles an item is about one that is audited.
func (a *auditor) counts(s *clickhouse.LogRow, epoch int32) bool {
	judged := a.judged[s.Topic]
	return a.settled[s.Topic] != nil && epoch == a.Epochs.Of(s.Topic) && int(s.Partition) < len(judged) && s.Partition >= 0 &&
		s.Offset >= a.from[s.Topic][s.Partition] && s.Offset < judged[s.Partition] && (a.Tenant == "" || s.Tenant == a.Tenant)
}

// checkItems compares each item topic with what became of its records.
func (a *auditor) checkItems(ctx context.Context) error {
	for _, topic := range itemTopics() {
		items := sums{}
		err := a.scan(ctx, topic, a.from[topic], a.to[topic], func(rec *kgo.Record) error {
			item, origin := a.item(rec)
			if a.counts(item, a.Epochs.Of(topic)) {
				items.add(a.Width, item)
				a.now().Compared++
			}
			if origin != nil && a.counts(origin, a.Epochs.Of(topic)) {
				a.settled[topic].add(a.Width, origin)
			}
			return nil
		})
		if err != nil {
			return err
		}
		differing := differ(items, a.settled[topic])
		delete(a.settled, topic)
		for runs := range slices.Chunk(differing, runsAtOnce) {
			if a.enough() {
				a.now().Found += int64(len(runs))
				continue
			}
			if err := a.nameItems(ctx, topic, runs); err != nil {
				return err
			}
		}
	}
	return nil
}

// runsAtOnce bounds the memory in which items are named: that many runs of records.
const runsAtOnce = 16

// item describes a record of an item topic, and for a forwarded copy the record that it is a copy of.
func (a *auditor) item(rec *kgo.Record) (item, origin *clickhouse.LogRow) {
	env, _ := schemas.ParseEnvelope(rec.Headers) // whatever is wrong with it is so in its dead letter, too
	epoch := a.Epochs.Of(rec.Topic)
	item = itemRow(rec.Topic, epoch, rec.Partition, rec.Offset, &env)
	if env.Origin != nil {
		origin = itemRow(rec.Topic, epoch, env.Origin.Partition, env.Origin.Offset, &env)
	}
	return item, origin
}

// fate is a record of an item topic and all that settled it.
type fate struct {
	item *clickhouse.LogRow // nil: there is no such record
	ends []end
}

// end is an outcome, a dead letter or a forwarded copy.
type end struct {
	what string // a noun and the position
	says clickhouse.LogRow
	dead bool
}

// nameItems reads the runs again, and what settled their records, and names what differs.
func (a *auditor) nameItems(ctx context.Context, topic string, runs []run) error {
	fates := map[clickhouse.RecordAt]*fate{}
	of := func(r *clickhouse.LogRow) *fate {
		if r.Topic != topic || !slices.Contains(runs, run{r.Partition, r.Offset / a.Width}) {
			return nil
		}
		at := clickhouse.RecordAt{Partition: r.Partition, Offset: r.Offset}
		if fates[at] == nil {
			fates[at] = &fate{}
		}
		return fates[at]
	}
	judged := a.judged[topic]
	inside := func(r *clickhouse.LogRow) bool {
		return r.Partition >= 0 && int(r.Partition) < len(judged) && r.Offset >= a.from[topic][r.Partition] && r.Offset < judged[r.Partition]
	}
	err := a.scan(ctx, topic, a.from[topic], a.to[topic], func(rec *kgo.Record) error {
		item, origin := a.item(rec)
		if inside(item) {
			if f := of(item); f != nil {
				f.item = item
			}
		}
		if origin != nil && inside(origin) {
			if f := of(origin); f != nil {
				f.ends = append(f.ends, end{fmt.Sprintf("a copy at %s/%d@%d", topic, rec.Partition, rec.Offset), *origin, false})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, result := range []string{schemas.ProcessedTopic(topic), schemas.UnprocessedTopic(topic), schemas.DeadLetters} {
		err := a.scan(ctx, result, a.from[result], a.to[result], func(rec *kgo.Record) error {
			m, err := a.decode.read(ctx, rec)
			if err != nil || m.settles == nil || m.settles.Topic != topic || m.epoch != a.Epochs.Of(topic) || !inside(m.settles) {
				return err
			}
			if f := of(m.settles); f != nil {
				what := "an outcome"
				if result == schemas.DeadLetters {
					what = "a dead letter"
				}
				f.ends = append(f.ends, end{fmt.Sprintf("%s at %s/%d@%d", what, result, rec.Partition, rec.Offset), *m.settles, result == schemas.DeadLetters})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(fates), func(x, y clickhouse.RecordAt) int {
		if x.Partition != y.Partition {
			return int(x.Partition - y.Partition)
		}
		return int(min(1, max(-1, x.Offset-y.Offset)))
	}) {
		if err := a.judgeFate(ctx, topic, at, fates[at]); err != nil {
			return err
		}
	}
	return nil
}

// judgeFate names what is wrong with a record's fate.
func (a *auditor) judgeFate(ctx context.Context, topic string, at clickhouse.RecordAt, f *fate) error {
	row := &clickhouse.LogRow{Topic: topic, Partition: at.Partition, Offset: at.Offset}
	var whats []string
	for _, e := range f.ends {
		whats = append(whats, e.what)
	}
	all := strings.Join(whats, " and ")
	if f.item != nil {
		row = f.item
	} else if len(f.ends) > 0 {
		row = &f.ends[0].says
	}
	if a.Tenant != "" && row.Tenant != a.Tenant {
		return nil
	}
	switch {
	case f.item == nil:
		a.foundItem(row, "there is "+all+" about this position, where no item lies", "look for who else writes to the result topics: the broker's ACLs should let only the processors")
	case len(f.ends) == 0:
		if n, _ := strconv.Atoi(f.item.More); n > 1 {
			last, err := a.Conn.LastAttempts(ctx, []string{f.item.ID})
			if err != nil || int(last[f.item.ID]) >= n {
				return err // a replay that came too late: a later attempt, or this one, has been judged
			}
		}
		a.foundItem(row, fmt.Sprintf("attempt %s at the item has no outcome, and it lies below the committed offset of its processor", f.item.More),
			"look for who moved the group's committed offset; `counterfoil tail "+topic+" --from start` shows the record, which has to be sent again")
	case len(f.ends) > 1:
		a.foundItem(row, fmt.Sprintf("attempt %s at the item was settled %d times: %s", f.item.More, len(f.ends), all),
			"check that every processor runs with transactions of its own (INSTANCE) and that nobody set the group's offset back")
	case !f.ends[0].dead && (f.ends[0].says.ID != f.item.ID || f.ends[0].says.Tenant != f.item.Tenant || f.ends[0].says.More != f.item.More):
		says := f.ends[0].says
		a.foundItem(row, fmt.Sprintf("the item is %s of %q, attempt %s; %s says %s of %q, attempt %s", f.item.ID, f.item.Tenant, f.item.More, all, says.ID, says.Tenant, says.More),
			"look for who else writes to the result topics: the broker's ACLs should let only the processors")
	}
	return nil
}

func (a *auditor) foundItem(r *clickhouse.LogRow, problem, do string) {
	a.found(Finding{Problem: problem, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Tenant: r.Tenant, Item: r.ID, Do: do})
}
