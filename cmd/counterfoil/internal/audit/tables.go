package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// What to do about rows.
const (
	doMissing = "look for who removed it (system.mutations, system.part_log); `counterfoil tail` shows the record that it has to be made from again"
	doDoubled = "delete the row with the later write_by, and look for who inserted it (system.query_log): the sink's own inserts cannot double"
	doForeign = "look for who inserted it (system.query_log), and delete it"
	doOther   = "look for who changed it (system.mutations); the record in Kafka is what was decided"
)

// checkTables compares the log tables with their topics. While it reads these it collects what settles items.
func (a *auditor) checkTables(ctx context.Context) error {
	a.settled = map[string]sums{}
	for _, topic := range itemTopics() {
		a.settled[topic] = sums{}
	}
	for _, topic := range slices.Sorted(maps.Keys(a.decode.tables)) {
		if err := a.checkTopic(ctx, topic); err != nil {
			return err
		}
	}
	for _, table := range clickhouse.LogTables() {
		if err := a.checkForeign(ctx, table); err != nil {
			return err
		}
	}
	doubled, err := a.Conn.DoubledDeadLetters(ctx, a.Tenant, a.Most)
	for _, row := range doubled {
		a.foundRow("dead_letters", &row, "the dead letter about this record has more than one row", doDoubled)
	}
	return err
}

// checkTopic compares the tables that a topic feeds.
func (a *auditor) checkTopic(ctx context.Context, topic string) error {
	tables := a.decode.tables[topic]
	t, _ := schemas.TopicNamed(topic)
	records := map[string]sums{}
	for _, table := range tables {
		records[table] = sums{}
	}
	bad := &badRecords{a: a, topic: topic}
	err := a.scan(ctx, topic, a.from[topic], a.to[topic], func(rec *kgo.Record) error {
		m, err := a.decode.read(ctx, rec)
		if err != nil {
			return err
		}
		if m.bad {
			return bad.add(ctx, rec)
		}
		for table, row := range m.rows {
			if a.Tenant != "" && row.Tenant != a.Tenant {
				continue
			}
			records[table].add(a.Width, &row)
			a.now().Compared++
			if t.Kind != "" && table == tables[0] { // an unmatched sale has two rows
				a.outcomes++
			}
		}
		if s := m.settles; s != nil && a.counts(s, m.epoch) {
			a.settled[s.Topic].add(a.Width, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := bad.check(ctx); err != nil {
		return err
	}
	for _, table := range tables {
		if err := a.checkTable(ctx, table, topic, records[table]); err != nil {
			return err
		}
	}
	return nil
}

// checkTable compares one table with one of the topics that feed it.
func (a *auditor) checkTable(ctx context.Context, table, topic string, records sums) error {
	a.Progress(fmt.Sprintf("%s: asking for table %s", a.now().Name, table))
	var ranges []clickhouse.LogRange
	for p := range a.to[topic] {
		ranges = append(ranges, clickhouse.LogRange{Partition: int32(p), From: a.from[topic][p], To: a.to[topic][p]})
	}
	rows := sums{}
	epoch := a.Epochs.Of(topic)
	err := a.Conn.LogSums(ctx, table, topic, epoch, a.Tenant, a.Width, ranges, func(partition int32, number int64, s clickhouse.LogSum) {
		rows[run{partition, number}] = s
	})
	if err != nil {
		return err
	}
	for _, at := range differ(records, rows) {
		if a.enough() { // the rest is counted, not named
			difference := int64(records[at].Rows) - int64(rows[at].Rows)
			a.now().Found += max(1, difference, -difference)
			continue
		}
		if err := a.nameRows(ctx, table, topic, a.within(at, a.from[topic], a.to[topic])); err != nil {
			return err
		}
	}
	return a.checkBeyond(ctx, table, topic)
}

// nameRows reads a range on both sides and names what differs.
func (a *auditor) nameRows(ctx context.Context, table, topic string, r clickhouse.LogRange) error {
	records := map[int64]clickhouse.LogRow{}
	from, to := only(r, len(a.to[topic]))
	err := a.scan(ctx, topic, from, to, func(rec *kgo.Record) error {
		m, err := a.decode.read(ctx, rec)
		if row, ok := m.rows[table]; ok && (a.Tenant == "" || row.Tenant == a.Tenant) {
			records[rec.Offset] = row
		}
		return err
	})
	if err != nil {
		return err
	}
	epoch := a.Epochs.Of(topic)
	// A table with more rows than this in a range has been filled by somebody else; the first ones are named.
	rows, err := a.Conn.LogRows(ctx, table, topic, epoch, a.Tenant, r, int(2*a.Width))
	if err != nil {
		return err
	}
	seen := map[int64]int{}
	for i := range rows {
		row := &rows[i]
		record, ok := records[row.Offset]
		seen[row.Offset]++
		switch {
		case !ok:
			a.foundRow(table, row, "no committed record of this position makes this row", doForeign)
		case seen[row.Offset] == 2:
			a.foundRow(table, row, "the record has more than one row", doDoubled)
		case seen[row.Offset] == 1 && record != *row:
			a.foundRow(table, row, fmt.Sprintf("the row is %s of %q (%s), the record is %s of %q (%s)", row.ID, row.Tenant, row.More, record.ID, record.Tenant, record.More), doOther)
		}
	}
	var missing []clickhouse.RecordAt
	for _, offset := range slices.Sorted(maps.Keys(records)) {
		if seen[offset] == 0 {
			missing = append(missing, clickhouse.RecordAt{Partition: r.Partition, Offset: offset})
		}
	}
	// What the columns cannot hold is a dead letter of the sink's.
	dead, err := a.deadLettersOf(ctx, topic, epoch, missing)
	if err != nil {
		return err
	}
	for _, at := range missing {
		if row := records[at.Offset]; dead[at] == 0 {
			a.foundRow(table, &row, "the record has no row", doMissing)
		}
	}
	return nil
}

// deadLettersOf is [clickhouse.Conn.DeadLettersOf]; the topic dead_letters has none of its own.
func (a *auditor) deadLettersOf(ctx context.Context, topic string, epoch int32, at []clickhouse.RecordAt) (map[clickhouse.RecordAt]uint64, error) {
	if topic == schemas.DeadLetters || len(at) == 0 {
		return nil, nil
	}
	return a.Conn.DeadLettersOf(ctx, topic, epoch, at)
}

// checkBeyond looks for rows of positions that the topic does not have yet.
func (a *auditor) checkBeyond(ctx context.Context, table, topic string) error {
	epoch := a.Epochs.Of(topic)
	last, err := a.Conn.LastOffsets(ctx, table, topic, epoch)
	if err != nil || len(last) == 0 {
		return err
	}
	// Asked afterwards: a row's record was there before the row.
	ends, err := offsets.List(ctx, a.Admin.ListEndOffsets, topic)
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(last)) {
		end := int64(0)
		if int(p) < len(ends[topic]) {
			end = ends[topic][p]
		}
		if last[p] < end {
			continue
		}
		rows, err := a.Conn.LogRows(ctx, table, topic, epoch, a.Tenant, clickhouse.LogRange{Partition: p, From: end, To: last[p] + 1}, a.Most)
		if err != nil {
			return err
		}
		for i := range rows {
			a.foundRow(table, &rows[i], fmt.Sprintf("the topic ends at offset %d", end), doForeign)
		}
	}
	return nil
}

// checkForeign looks for rows that no record can have made.
func (a *auditor) checkForeign(ctx context.Context, table clickhouse.LogTable) error {
	rows, err := a.Conn.ForeignRows(ctx, table, a.Epochs, a.Tenant, a.Most)
	for i := range rows {
		a.foundRow(table.Name, &rows[i], "the table is not made from this topic, or not yet from this epoch of it", doForeign)
	}
	return err
}

func (a *auditor) foundRow(table string, r *clickhouse.LogRow, problem, do string) {
	a.found(Finding{Problem: problem, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Table: table, Tenant: r.Tenant, Item: r.ID, Do: do})
}

// badRecords are records that cannot be read, and must be dead letters of the sink's.
type badRecords struct {
	a     *auditor
	topic string
	at    []clickhouse.RecordAt
}

const badChunk = 10_000

func (b *badRecords) add(ctx context.Context, rec *kgo.Record) error {
	b.at = append(b.at, clickhouse.RecordAt{Partition: rec.Partition, Offset: rec.Offset})
	if len(b.at) < badChunk {
		return nil
	}
	return b.check(ctx)
}

func (b *badRecords) check(ctx context.Context) error {
	if len(b.at) == 0 {
		return nil
	}
	dead, err := b.a.Conn.DeadLettersOf(ctx, b.topic, b.a.Epochs.Of(b.topic), b.at)
	if err != nil {
		return err
	}
	for _, at := range b.at {
		if dead[at] == 0 {
			b.a.found(Finding{
				Problem: "the record cannot be read and is no dead letter", Topic: b.topic, Partition: at.Partition, Offset: at.Offset, Table: "dead_letters", Do: doMissing,
			})
		}
	}
	b.at = b.at[:0]
	return nil
}
