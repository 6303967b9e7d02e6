package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/counterfoil/counterfoil/schemas"
)

// This file is what an audit asks of the tables: sums over ranges of positions, which it compares with the same sums over the topics' records,
// and the rows of the ranges that differ. What is made of a table in ClickHouse is compared with it there.

// LogTable is a table that holds each record of its topics once.
type LogTable struct {
	Name   string
	Topics []string // that feed it; of dead_letters the topic of that name
}

// LogTables are all of them.
func LogTables() []LogTable {
	var all []LogTable
	for _, t := range schemas.Topics() {
		for _, spec := range tablesOf(t) {
			i := slices.IndexFunc(all, func(l LogTable) bool { return l.Name == spec.name })
			switch {
			case spec.state:
			case i < 0:
				all = append(all, LogTable{spec.name, []string{t.Name}})
			default:
				all[i].Topics = append(all[i].Topics, t.Name)
			}
		}
	}
	return all
}

// StateTable is the table that holds the latest record of each own id of a reference or fact topic; empty for other topics.
func StateTable(topic string) string {
	t, _ := schemas.TopicNamed(topic)
	for _, spec := range tablesOf(t) {
		if spec.key != nil {
			return spec.name
		}
	}
	return ""
}

// LogRow is what an audit compares of a row of a log table with the record that it was made from.
type LogRow struct {
	Topic     string
	Partition int32
	Offset    int64
	Tenant    string
	ID        string // of the item; of batches the key; of dead letters empty
	More      string // of outcomes batch, index, attempt and source, of batches the number of items, of dead letters the source
}

// OutcomeRow is the row of an outcome.
func OutcomeRow(topic string, partition int32, offset int64, o *schemas.Outcome) LogRow {
	batch := ""
	if o.Batch != nil {
		batch = *o.Batch
	}
	return LogRow{topic, partition, offset, o.Tenant, o.ID, fmt.Sprintf("%s/%d/%d/%s/%d/%d/%d",
		batch, o.Index, o.Attempt, o.SourceTopic, o.SourceEpoch, o.SourcePartition, o.SourceOffset)}
}

// BatchRow is the row of a batch's header.
func BatchRow(topic string, partition int32, offset int64, b *schemas.BatchHeader) LogRow {
	return LogRow{topic, partition, offset, b.Tenant, b.Key, fmt.Sprint(b.Items)}
}

// DeadLetterRow is the row of a dead letter.
func DeadLetterRow(topic string, partition int32, offset int64, d *schemas.DeadLetter) LogRow {
	tenant := ""
	if d.Tenant != nil {
		tenant = *d.Tenant
	}
	return LogRow{topic, partition, offset, tenant, "", fmt.Sprintf("%s/%d/%d/%d", d.Topic, d.Epoch, d.Partition, d.Offset)}
}

// idAndMore are the SQL expressions of LogRow's members of these names.
func idAndMore(table string) (id, more string) {
	switch table {
	case batchesTable.name:
		return "`key`", "toString(items)"
	case tableDeadLetters:
		return "''", "concat(source_topic, '/', toString(source_epoch), '/', toString(source_partition), '/', toString(source_offset))"
	default:
		return "id", "concat(batch, '/', toString(`index`), '/', toString(attempt), '/', source_topic, '/', toString(source_epoch), '/', " +
			"toString(source_partition), '/', toString(source_offset))"
	}
}

// LogSum describes a set of rows: how many there are, and the sum of their hashes. It does not depend on their order, and a row that is there
// twice counts twice.
type LogSum struct {
	Rows uint64
	Hash uint64
}

// Add adds a row.
func (s *LogSum) Add(r *LogRow) {
	s.Rows++
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s\x00%s", r.Offset, r.Tenant, r.ID, r.More))
	s.Hash += binary.LittleEndian.Uint64(sum[:])
}

// hashSQL is [LogSum]'s hash of a row as ClickHouse computes it.
func hashSQL(table string) string {
	id, more := idAndMore(table)
	return `reinterpretAsUInt64(substring(SHA256(concat(toString(offset), '\0', tenant, '\0', ` + id + `, '\0', ` + more + `)), 1, 8))`
}

// LogRange is the records of one partition from an offset to below another.
type LogRange struct {
	Partition int32
	From, To  int64
}

func inRanges(ranges []LogRange) string {
	var any []string
	for _, r := range ranges {
		any = append(any, fmt.Sprintf("partition = %d AND offset >= %d AND offset < %d", r.Partition, r.From, r.To))
	}
	return "(" + strings.Join(any, " OR ") + ")"
}

// ofTenant restricts a query; an empty tenant is all.
func ofTenant(tenant string, args []any) (string, []any) {
	if tenant == "" {
		return "", args
	}
	return " AND tenant = ?", append(args, tenant)
}

// LogSums calls each with the sum of every run of width offsets (by number: 0 is [0, width)) of which the table has rows in the ranges.
func (c *Conn) LogSums(ctx context.Context, table, topic string, epoch int32, tenant string, width int64, ranges []LogRange, each func(partition int32, run int64, s LogSum)) error {
	if len(ranges) == 0 {
		return nil
	}
	where, args := ofTenant(tenant, []any{topic, epoch})
	return c.audit(ctx, "sum up "+table, fmt.Sprintf("SELECT partition, intDiv(offset, %d) AS run, count(), sumWithOverflow(%s) FROM %s WHERE topic = ? AND epoch = ?%s AND %s GROUP BY partition, run",
		width, hashSQL(table), c.table(table), where, inRanges(ranges)), args, func(rows driver.Rows) error {
		var partition int32
		var run int64
		var s LogSum
		err := rows.Scan(&partition, &run, &s.Rows, &s.Hash)
		each(partition, run, s)
		return err
	})
}

// CountRows is how many rows a table has of a range.
func (c *Conn) CountRows(ctx context.Context, table, topic string, epoch int32, tenant string, r LogRange) (int64, error) {
	var n uint64
	where, args := ofTenant(tenant, []any{topic, epoch})
	err := c.audit(ctx, "count "+table, "SELECT count() FROM "+c.table(table)+" WHERE topic = ? AND epoch = ?"+where+" AND "+inRanges([]LogRange{r}), args,
		func(rows driver.Rows) error { return rows.Scan(&n) })
	return int64(n), err
}

// LogRows returns a table's rows of a range in the order of their offsets, at most limit.
func (c *Conn) LogRows(ctx context.Context, table, topic string, epoch int32, tenant string, r LogRange, limit int) ([]LogRow, error) {
	where, args := ofTenant(tenant, []any{topic, epoch})
	return c.logRows(ctx, table, "topic = ? AND epoch = ?"+where+" AND "+inRanges([]LogRange{r}), limit, args)
}

func (c *Conn) logRows(ctx context.Context, table, where string, limit int, args []any) (all []LogRow, err error) {
	id, more := idAndMore(table)
	err = c.audit(ctx, "read "+table, fmt.Sprintf("SELECT topic, partition, offset, tenant, %s, %s FROM %s WHERE %s ORDER BY topic, partition, offset LIMIT %d",
		id, more, c.table(table), where, limit), args, func(rows driver.Rows) error {
		var r LogRow
		err := rows.Scan(&r.Topic, &r.Partition, &r.Offset, &r.Tenant, &r.ID, &r.More)
		all = append(all, r)
		return err
	})
	return all, err
}

// ForeignRows returns rows of a table, at most limit, that no record can have made: of another topic than those that feed it, or of an epoch
// that is still to come.
func (c *Conn) ForeignRows(ctx context.Context, table LogTable, epochs schemas.Epochs, tenant string, limit int) ([]LogRow, error) {
	topics := table.Topics
	if table.Name == tableDeadLetters {
		topics = Topics() // the sink's own name the topic of the bad record
	}
	var ours []string
	var args []any
	for _, topic := range topics {
		ours = append(ours, "topic = ? AND epoch <= ?")
		args = append(args, topic, epochs.Of(topic))
	}
	where, args := ofTenant(tenant, args)
	return c.logRows(ctx, table.Name, "NOT ("+strings.Join(ours, " OR ")+")"+where, limit, args)
}

// LastOffsets is the highest offset of each partition that a table has of a topic.
func (c *Conn) LastOffsets(ctx context.Context, table, topic string, epoch int32) (map[int32]int64, error) {
	last := map[int32]int64{}
	err := c.audit(ctx, "ask for the last rows of "+table, "SELECT partition, max(offset) FROM "+c.table(table)+" WHERE topic = ? AND epoch = ? GROUP BY partition",
		[]any{topic, epoch}, func(rows driver.Rows) error {
			var partition int32
			var offset int64
			err := rows.Scan(&partition, &offset)
			last[partition] = offset
			return err
		})
	return last, err
}

// SourceOffsets is the highest offset of each partition of a topic that any outcome or dead letter is about.
func (c *Conn) SourceOffsets(ctx context.Context, topic string, epoch int32) (map[int32]int64, error) {
	const columns, where = "source_partition, source_offset", "source_topic = ? AND source_epoch = ? AND source_offset >= 0"
	last := map[int32]int64{}
	var args []any
	for range len(outcomeTables()) + 1 {
		args = append(args, topic, epoch)
	}
	err := c.audit(ctx, "ask for the last outcomes about "+topic, "SELECT source_partition, max(source_offset) FROM ("+c.outcomesSQL(columns, where)+
		" UNION ALL SELECT "+columns+" FROM "+c.table(tableDeadLetters)+" WHERE "+where+") GROUP BY source_partition", args, func(rows driver.Rows) error {
		var partition int32
		var offset int64
		err := rows.Scan(&partition, &offset)
		last[partition] = offset
		return err
	})
	return last, err
}

// CountRowsOf is how many rows a log table has of an epoch of a topic.
func (c *Conn) CountRowsOf(ctx context.Context, table, topic string, epoch int32) (n uint64, err error) {
	err = c.audit(ctx, "count "+table, "SELECT count() FROM "+c.table(table)+" WHERE topic = ? AND epoch = ?", []any{topic, epoch}, func(rows driver.Rows) error { return rows.Scan(&n) })
	return n, err
}

// HighestNumber is the highest number that a table has; 0 where it has none. It has one for each batch, customer event or referral.
func (c *Conn) HighestNumber(ctx context.Context, table string) (highest int64, err error) {
	err = c.audit(ctx, "ask for the highest number of "+table, "SELECT max(number) FROM "+c.table(table), nil, func(rows driver.Rows) error { return rows.Scan(&highest) })
	return highest, err
}

// PendingItems counts the items, and their batches, that the headers announce and that have no outcome.
func (c *Conn) PendingItems(ctx context.Context) (items, batches uint64, err error) {
	err = c.audit(ctx, "count the items without an outcome", "SELECT toUInt64(sum(pending)), countIf(pending > 0) FROM "+c.table("batch_status"), nil,
		func(rows driver.Rows) error { return rows.Scan(&items, &batches) })
	return items, batches, err
}

// RecordAt is where a record lies in its topic.
type RecordAt struct {
	Partition int32
	Offset    int64
}

// DeadLettersOf counts the rows of dead_letters that the sink or a processor wrote about records of a topic. Records without any are absent.
func (c *Conn) DeadLettersOf(ctx context.Context, topic string, epoch int32, at []RecordAt) (map[RecordAt]uint64, error) {
	found := map[RecordAt]uint64{}
	for chunk := range slices.Chunk(at, auditChunk) {
		var list []string
		for _, r := range chunk {
			list = append(list, fmt.Sprintf("(%d,%d)", r.Partition, r.Offset))
		}
		err := c.audit(ctx, "look for dead letters", "SELECT source_partition, source_offset, count() FROM "+c.table(tableDeadLetters)+
			" WHERE source_topic = ? AND source_epoch = ? AND (source_partition, source_offset) IN ("+strings.Join(list, ",")+") GROUP BY source_partition, source_offset",
			[]any{topic, epoch}, func(rows driver.Rows) error {
				var at RecordAt
				var n uint64
				err := rows.Scan(&at.Partition, &at.Offset, &n)
				found[at] = n
				return err
			})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// auditChunk is how many positions or keys a question names: its text must stay below ClickHouse's max_query_size, 256 KiB.
const auditChunk = 1000

// DoubledDeadLetters returns dead letters of the sink's own that have more than one row, at most limit.
func (c *Conn) DoubledDeadLetters(ctx context.Context, tenant string, limit int) (all []LogRow, err error) {
	where, args := ofTenant(tenant, []any{schemas.DeadLetters})
	err = c.audit(ctx, "look for doubled dead letters", fmt.Sprintf("SELECT topic, partition, offset, any(tenant) AS t FROM %s WHERE topic != ?%s "+
		"GROUP BY topic, epoch, partition, offset HAVING count() > 1 ORDER BY topic, partition, offset LIMIT %d", c.table(tableDeadLetters), where, limit), args, func(rows driver.Rows) error {
		var r LogRow
		err := rows.Scan(&r.Topic, &r.Partition, &r.Offset, &r.Tenant)
		all = append(all, r)
		return err
	})
	return all, err
}

// outcomeTables are the log tables of outcomes.
func outcomeTables() []LogTable {
	return slices.DeleteFunc(LogTables(), func(t LogTable) bool { return t.Name == batchesTable.name || t.Name == tableDeadLetters })
}

// outcomesSQL are the rows of all tables of outcomes, with the given columns. An unmatched sale is in two, at one position.
func (c *Conn) outcomesSQL(columns, where string) string {
	var all []string
	for _, t := range outcomeTables() {
		all = append(all, "SELECT "+columns+" FROM "+c.table(t.Name)+" WHERE "+where)
	}
	return strings.Join(all, " UNION ALL ")
}

// DoubledOutcome is an attempt at an item with more than one outcome.
type DoubledOutcome struct {
	Tenant, ID string
	Attempt    int32
	At         []string // topic/partition@offset, two of them
}

// DoubledOutcomes returns attempts with outcomes at several positions, at most limit, of items that were accepted since a time (zero: ever).
// It looks at one share of the items, by a hash of their ids, so that ClickHouse needs the memory for no more than that.
func (c *Conn) DoubledOutcomes(ctx context.Context, tenant string, since time.Time, share, shares, limit int) (all []DoubledOutcome, err error) {
	where := fmt.Sprintf("cityHash64(id) %% %d = %d", shares, share)
	if !since.IsZero() {
		where += " AND accepted_at >= " + millis(since)
	}
	of, one := ofTenant(tenant, nil)
	var args []any
	for range outcomeTables() {
		args = append(args, one...)
	}
	where += of
	err = c.audit(ctx, "look for doubled outcomes", fmt.Sprintf("SELECT tenant, id, attempt, arrayMap(a -> concat(a.1, '/', toString(a.2), '@', toString(a.3)), groupUniqArray(2)((topic, partition, offset, epoch)) AS p) "+
		"FROM (%s) GROUP BY tenant, id, attempt HAVING length(p) > 1 ORDER BY tenant, id LIMIT %d", c.outcomesSQL("tenant, id, attempt, topic, partition, offset, epoch", where), limit), args, func(rows driver.Rows) error {
		var d DoubledOutcome
		err := rows.Scan(&d.Tenant, &d.ID, &d.Attempt, &d.At)
		slices.Sort(d.At)
		all = append(all, d)
		return err
	})
	return all, err
}

// BatchCount is a batch whose items with an outcome are not as many as its header announced.
type BatchCount struct {
	Tenant, Key string
	Number      int64
	Offset      int64
	Items       int32
	Outcomes    uint64 // distinct items that have one
	Last        int32  // their highest index
}

// BrokenBatches returns batches with headers in the range that are not complete, or have items beyond their end, at most limit.
func (c *Conn) BrokenBatches(ctx context.Context, tenant string, epoch int32, r LogRange, limit int) (all []BatchCount, err error) {
	where, args := ofTenant(tenant, []any{schemas.Batches, epoch})
	headers := "SELECT tenant, `key`, number, offset, items FROM " + c.table(batchesTable.name) + " WHERE topic = ? AND epoch = ?" + where + " AND " + inRanges([]LogRange{r})
	keys := "batch " + c.global() + "IN (SELECT `key` FROM keys)"
	err = c.audit(ctx, "compare batches", fmt.Sprintf("WITH keys AS (%s) SELECT b.tenant, b.`key`, b.number, b.offset, b.items, o.n, o.last FROM keys AS b %sLEFT JOIN "+
		"(SELECT tenant, batch, uniqExact(`index`) AS n, max(`index`) AS last FROM (%s) GROUP BY tenant, batch) AS o ON o.tenant = b.tenant AND o.batch = b.`key` "+
		"WHERE o.n != b.items OR o.n > 0 AND o.last >= b.items ORDER BY b.number LIMIT %d", headers, c.global(), c.outcomesSQL("tenant, batch, `index`", keys), limit), args, func(rows driver.Rows) error {
		var b BatchCount
		err := rows.Scan(&b.Tenant, &b.Key, &b.Number, &b.Offset, &b.Items, &b.Outcomes, &b.Last)
		all = append(all, b)
		return err
	})
	return all, err
}

// BatchKeys returns the keys of batches by their numbers; one that is not there is absent.
func (c *Conn) BatchKeys(ctx context.Context, numbers []int64) (map[int64]string, error) {
	keys := map[int64]string{}
	for chunk := range slices.Chunk(numbers, auditChunk) {
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(chunk), " ", ","), "[]")
		err := c.audit(ctx, "look for batches", "SELECT number, `key` FROM "+c.table(batchesTable.name)+" WHERE number IN ("+list+")", nil, func(rows driver.Rows) error {
			var number int64
			var key string
			err := rows.Scan(&number, &key)
			keys[number] = key
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// OwnID names a record of a reference or fact topic: the parts of its key.
type OwnID struct{ Tenant, ID string }

// Versions returns the highest version that the table of a reference or fact topic has of each own id; of those that it has nothing of none.
func (c *Conn) Versions(ctx context.Context, topic string, ids []OwnID) (map[OwnID]int64, error) {
	var spec *tableSpec
	t, _ := schemas.TopicNamed(topic)
	for _, s := range tablesOf(t) {
		if s.key != nil {
			spec = s
		}
	}
	if spec == nil {
		return nil, fmt.Errorf("topic %s has no table by own id", topic)
	}
	columns, err := spec.resolve()
	if err != nil {
		return nil, err
	}
	var parts []string
	for _, name := range spec.key {
		i := slices.IndexFunc(columns, func(c tableColumn) bool { return c.name == name })
		if sqlTypes[columns[i].kind] == "String" {
			parts = append(parts, "`"+name+"`") // as it is, so that the primary key finds it
		} else {
			parts = append(parts, "toString(`"+name+"`)")
		}
	}
	own := parts[0]
	if len(parts) > 1 {
		own = "concat(" + strings.Join(parts, ", '/', ") + ")"
	}
	versions := map[OwnID]int64{}
	for chunk := range slices.Chunk(ids, auditChunk) {
		args := make([]any, 0, 2*len(chunk))
		for _, id := range chunk {
			args = append(args, id.Tenant, id.ID)
		}
		err := c.audit(ctx, "ask for versions of "+topic, "SELECT tenant, "+own+" AS own, max(version) FROM "+c.table(spec.name)+
			" WHERE (tenant, own) IN ("+strings.TrimSuffix(strings.Repeat("(?,?),", len(chunk)), ",")+") GROUP BY tenant, own", args, func(rows driver.Rows) error {
			var id OwnID
			var version int64
			err := rows.Scan(&id.Tenant, &id.ID, &version)
			versions[id] = version
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// Copy is a table that is filled beside another one, or from it, and holds the same in a form of its own. No record says what it must have: the
// other table does.
type Copy struct{ Table, Of string }

// Copies are all of them: what everybody owns, by key, and facts in another order than by id.
func Copies() []Copy {
	all := []Copy{{ownershipStateTable.name, ownershipTable.name}}
	for _, spec := range allTables() {
		for _, f := range spec.followers {
			all = append(all, Copy{f.table, spec.name})
		}
	}
	return all
}

// CopyDifference is a key, or a fact, of which a copy has other rows than it must have. Rows that are replaced or deleted do not count.
type CopyDifference struct {
	Tenant, ID string // of ownership the keys of user and SKU, with a slash between them
	Version    int64  // the last one that either table has
	Rows, Want uint64 // how many the copy has, and must have; where they are equal, their contents differ
}

// copiedAtOnce is how many rows are compared at once, and how many keys that differ are looked at again. Variable for tests.
var copiedAtOnce = 1_000_000

// CopyDifferences compares a copy with its table, and returns how many rows of that it has looked at, and the keys that differ, at most limit.
// What is on its way is no difference: where it finds any it calls settle, which is to return when the sink is past the present ends of its
// topics, and looks again. What differs then as before has nothing on its way.
func (c *Conn) CopyDifferences(ctx context.Context, of Copy, tenant string, limit int, settle func(context.Context) error) (compared uint64, all []CopyDifference, err error) {
	where, args := ofTenant(tenant, nil)
	err = c.audit(ctx, "count "+of.Of, "SELECT count() FROM "+c.table(of.Of)+" WHERE true"+where, args, func(rows driver.Rows) error { return rows.Scan(&compared) })
	if err != nil {
		return 0, nil, err
	}
	shares := int(compared)/copiedAtOnce + 1
	for share := range shares {
		first, err := c.copyDifferences(ctx, of, tenant, share, shares)
		if err != nil {
			return 0, nil, err
		}
		if len(first) == 0 {
			continue
		}
		if err := settle(ctx); err != nil {
			return 0, nil, err
		}
		again, err := c.copyDifferences(ctx, of, tenant, share, shares)
		if err != nil {
			return 0, nil, err
		}
		for _, d := range again {
			if slices.Contains(first, d) {
				all = append(all, d)
			}
		}
		if len(all) >= limit {
			return compared, all[:limit], nil
		}
	}
	return compared, all, nil
}

func (c *Conn) copyDifferences(ctx context.Context, of Copy, tenant string, share, shares int) (all []CopyDifference, err error) {
	own, want, have := c.copySQL(of)
	filter, args := ofTenant(tenant, nil)
	where := fmt.Sprintf("cityHash64(%s) %% %d = %d%s", own, shares, share, filter)
	side := func(n int, sql string) string { return fmt.Sprintf("SELECT *, %d AS side FROM ("+sql+")", n, where) }
	err = c.audit(ctx, "compare "+of.Table+" with "+of.Of, "SELECT tenant, own, max(version), countIf(side = 2), countIf(side = 1) FROM ("+side(1, want)+" UNION ALL "+side(2, have)+`)
GROUP BY tenant, own HAVING arraySort(groupArrayIf(said, side = 1)) != arraySort(groupArrayIf(said, side = 2)) ORDER BY tenant, own LIMIT 10000`,
		slices.Concat(args, args), func(rows driver.Rows) error {
			var d CopyDifference
			err := rows.Scan(&d.Tenant, &d.ID, &d.Version, &d.Rows, &d.Want)
			all = append(all, d)
			return err
		})
	return all, err
}

// copySQL are the queries for the rows that a copy must have and for those that it has, where a condition (%s) holds: tenant, own, version and
// what else the row says. own is the expression of a key.
func (c *Conn) copySQL(of Copy) (own, want, have string) {
	if of.Table == ownershipStateTable.name {
		own = "concat(user_key, '/', sku_key)"
		both := "SELECT tenant, " + own + " AS own, tupleElement(last, 1) AS version, toString(last) AS said FROM (SELECT tenant, user_key, sku_key, " +
			"max(tuple(version, user_name, product_sku, quantity, source, time_of_approval)) AS last FROM TABLE WHERE %s GROUP BY tenant, user_key, sku_key)"
		return own, strings.Replace(both, "TABLE", c.table(of.Of), 1), strings.Replace(both, "TABLE", c.table(of.Table), 1)
	}
	var to follower
	for _, spec := range allTables() {
		for _, f := range spec.followers {
			if f.table == of.Table {
				to = f
			}
		}
	}
	// As in [Conn.moveSQL]: the last row of all that the table by id has of a fact is at its place, unless that deletes it.
	columns := slices.Concat([]string{"version", "is_deleted"}, to.place, to.other)
	last := "max(tuple(" + strings.Join(columns, ", ") + ")) AS last"
	at := strings.Join(to.place, ", ")
	wanted, said := "toString(last)", "toString(last)"
	if of.Of == schemas.Calls+"_state" {
		// A row has all of this in one column.
		wanted = "formatRow('RowBinary', tenant, tupleElement(last, 3), tupleElement(last, 4), tupleElement(last, 1), tupleElement(last, 2), id"
		for i := range to.other {
			wanted += fmt.Sprintf(", tupleElement(last, %d)", i+5)
		}
		wanted, said = wanted+")", "tupleElement(last, 3)"
	}
	head := "SELECT tenant, id AS own, tupleElement(last, 1) AS version, "
	want = head + wanted + " AS said FROM (SELECT tenant, id, " + last + " FROM " + c.table(of.Of) + " WHERE %s GROUP BY tenant, id) " +
		"WHERE tupleElement(last, 2) = 0 AND toString(tupleElement(last, 3)) != ''"
	if of.Of == schemas.Calls+"_state" {
		last, at = "max(tuple(version, is_deleted, call)) AS last", "hash, started_at"
	}
	have = head + said + " AS said FROM (SELECT tenant, id, " + last + " FROM " + c.table(of.Table) + " WHERE %s GROUP BY tenant, id, " + at + ") WHERE tupleElement(last, 2) = 0"
	return "id", want, have
}

// SyncReplicas makes each node know all that any replica of its shard has taken, so that it does not matter which one is asked.
func (c *Conn) SyncReplicas(ctx context.Context) error {
	for _, spec := range allTables() {
		for i := range c.nodes {
			if err := c.syncReplica(ctx, c.nodes[i].shard, c.nodes[i].Conn, spec.name); err != nil {
				return fmt.Errorf("let %s catch up with its replicas: %w", c.nodes[i].addr, err)
			}
		}
	}
	return nil
}

// audit asks and hands each row over.
func (c *Conn) audit(ctx context.Context, doing, sql string, args []any, row func(driver.Rows) error) error {
	rows, err := c.any.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
