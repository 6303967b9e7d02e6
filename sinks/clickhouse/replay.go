package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// This file is what a replay asks of the tables: which items are open, or which records are dead letters, and what is to be known of them.

// Selection restricts what is replayed; members that are empty do not.
type Selection struct {
	Tenant       string
	Kinds        []string // item topics, or item kinds such as purchase; of dead letters topics
	Reasons      []string // one of the last outcome's codes is one of these
	Items        []string // identities; not of dead letters, which have none of their own
	Refs         []string // the callers' references; not of dead letters
	Batch        int64    // number; not of dead letters
	Since, Until time.Time
}

// where are the conditions on a table whose columns have these names; an empty name has no such column.
func (s *Selection) where(kinds []string, reason, at string) (string, []any) {
	conditions, args := []string{"1"}, []any(nil)
	add := func(sql string, values ...any) { conditions, args = append(conditions, sql), append(args, values...) }
	if s.Tenant != "" {
		add("tenant = ?", s.Tenant)
	}
	if len(s.Kinds) > 0 {
		var any []string
		for _, column := range kinds {
			any = append(any, column+" IN (?)")
			args = append(args, s.Kinds)
		}
		add("(" + strings.Join(any, " OR ") + ")")
	}
	if len(s.Reasons) > 0 {
		add(reason, s.Reasons)
	}
	if !s.Since.IsZero() {
		add(at + " >= " + millis(s.Since))
	}
	if !s.Until.IsZero() {
		add(at + " < " + millis(s.Until))
	}
	return strings.Join(conditions, " AND "), args
}

// global is the keyword with which a cluster answers a part of a question once, for all shards.
func (c *Conn) global() string {
	if c.cfg.Cluster == "" {
		return ""
	}
	return "GLOBAL "
}

// OpenItem is an item whose last attempt is unprocessed.
type OpenItem struct {
	Tenant, ID string
	Kind       string // its topic
	Attempt    int32  // the last one
	AcceptedAt time.Time
}

// OpenItems returns the open items of a selection in the order in which they were accepted, at most limit.
func (c *Conn) OpenItems(ctx context.Context, sel Selection, limit int) (all []OpenItem, err error) {
	where, args := sel.where([]string{"kind", "item_kind"}, "hasAny(reason_code, ?)", "accepted_at")
	if sel.Batch != 0 {
		where += " AND batch " + c.global() + "IN (SELECT `key` FROM " + c.table(batchesTable.name) + " WHERE number = ?)"
		args = append(args, sel.Batch)
	}
	if len(sel.Items) > 0 {
		where, args = where+" AND id IN (?)", append(args, sel.Items)
	}
	if len(sel.Refs) > 0 {
		where, args = where+" AND ref IN (?)", append(args, sel.Refs)
	}
	of, tenant := ofTenant(sel.Tenant, nil)
	sql := fmt.Sprintf("SELECT tenant, id, kind, attempt, accepted_at FROM %[1]s WHERE %[2]s AND (tenant, id, attempt) %[3]sIN ("+
		"SELECT tenant, id, max(attempt) FROM %[4]s WHERE id %[3]sIN (SELECT id FROM %[1]s WHERE %[2]s)%[5]s GROUP BY tenant, id HAVING argMax(processed, attempt) = 0"+
		") ORDER BY accepted_at, source_partition, source_offset, batch, `index` LIMIT %[6]d",
		c.table("unprocessed"), where, c.global(), c.table("outcomes"), of, limit)
	err = c.audit(ctx, "select open items", sql, slices.Concat(args, args, tenant), func(rows driver.Rows) error {
		var it OpenItem
		err := rows.Scan(&it.Tenant, &it.ID, &it.Kind, &it.Attempt, &it.AcceptedAt)
		all = append(all, it)
		return err
	})
	return all, err
}

// OpenOutcome is what is known of an open item.
type OpenOutcome struct {
	OpenItem
	Batch    string
	Index    int32
	Ref      *string
	Reply    int32 // partition of the result topics in which its outcomes lie
	Reasons  []schemas.Reason
	Format   string
	Original []byte
	AtDoor   bool // it was refused at the door, and lies in no item topic
	// Where its first attempt was judged; FirstAttempt is not 1 where that was a dead letter, and the second is meant.
	FirstAttempt   int32
	FirstEpoch     int32
	FirstPartition int32
	FirstOffset    int64
}

// OpenOutcomes reads what is known of open items, at most some thousand. Their times of acceptance should lie near each other.
func (c *Conn) OpenOutcomes(ctx context.Context, items []OpenItem) (map[string]*OpenOutcome, error) {
	all := map[string]*OpenOutcome{}
	if len(items) == 0 {
		return all, nil
	}
	from, to := items[0].AcceptedAt, items[0].AcceptedAt
	var tenants, ids []string
	for _, it := range items {
		ids = append(ids, it.ID)
		if !slices.Contains(tenants, it.Tenant) {
			tenants = append(tenants, it.Tenant)
		}
		if it.AcceptedAt.Before(from) {
			from = it.AcceptedAt
		}
		if it.AcceptedAt.After(to) {
			to = it.AcceptedAt
		}
	}
	sql := fmt.Sprintf("SELECT tenant, id, kind, attempt, accepted_at, partition, batch, `index`, ref, reason_code, reason_field, reason_value, reason_message, format, original, "+
		"source_epoch, source_partition, source_offset FROM %s WHERE tenant IN (?) AND accepted_at >= %s AND accepted_at <= %s AND id IN (?) ORDER BY id, attempt",
		c.table("unprocessed"), millis(from), millis(to))
	err := c.audit(ctx, "read open items", sql, []any{tenants, ids}, func(rows driver.Rows) error {
		var o OpenOutcome
		var codes, fields, messages []string
		var values []*string
		var original string
		err := rows.Scan(&o.Tenant, &o.ID, &o.Kind, &o.Attempt, &o.AcceptedAt, &o.Reply, &o.Batch, &o.Index, &o.Ref, &codes, &fields, &values, &messages, &o.Format, &original,
			&o.FirstEpoch, &o.FirstPartition, &o.FirstOffset)
		o.Reasons, o.Original, o.AtDoor, o.FirstAttempt = reasonsOf(codes, fields, values, messages), []byte(original), o.FirstOffset < 0, o.Attempt
		if first := all[o.ID]; first != nil {
			o.FirstAttempt, o.FirstEpoch, o.FirstPartition, o.FirstOffset = first.FirstAttempt, first.FirstEpoch, first.FirstPartition, first.FirstOffset
		}
		all[o.ID] = &o
		return err
	})
	return all, err
}

// millis is a time as SQL.
func millis(t time.Time) string {
	return fmt.Sprintf("fromUnixTimestamp64Milli(toInt64(%d))", t.UnixMilli())
}

// DeadRecord is a dead letter, without its value.
type DeadRecord struct {
	Topic     string // of the dead letter's record: dead_letters; that of the bad record where the sink found it
	Epoch     int32
	Partition int32
	Offset    int64
	Tenant    string
	Source    schemas.DeadLetter // Value is nil, and so is Tenant
}

// DeadRecords returns the dead letters of a selection in the order in which their records were accepted, at most limit.
func (c *Conn) DeadRecords(ctx context.Context, sel Selection, limit int) (all []DeadRecord, err error) {
	where, args := sel.where([]string{"source_topic"}, "reason_code IN (?)", "recorded_at")
	sql := fmt.Sprintf("SELECT topic, epoch, partition, offset, tenant, source_topic, source_epoch, source_partition, source_offset, `key`, header_key, header_value, "+
		"reason_code, reason_field, reason_message, recorded_at FROM %s WHERE %s ORDER BY recorded_at, source_topic, source_partition, source_offset, offset LIMIT %d", c.table(tableDeadLetters), where, limit)
	err = c.audit(ctx, "select dead letters", sql, args, func(rows driver.Rows) error {
		var d DeadRecord
		var key *string
		var names, values []string
		l := &d.Source
		err := rows.Scan(&d.Topic, &d.Epoch, &d.Partition, &d.Offset, &d.Tenant, &l.Topic, &l.Epoch, &l.Partition, &l.Offset, &key, &names, &values,
			&l.Reason.Code, &l.Reason.Field, &l.Reason.Message, &l.RecordedAt)
		if key != nil {
			l.Key = new([]byte(*key))
		}
		for i := range names {
			l.Headers = append(l.Headers, schemas.Header{Key: names[i], Value: []byte(values[i])})
		}
		all = append(all, d)
		return err
	})
	return all, err
}

// ReadDeadValues sets the values of dead letters, at most some hundred.
func (c *Conn) ReadDeadValues(ctx context.Context, letters []*DeadRecord) error {
	type position struct {
		topic     string
		epoch     int32
		partition int32
		offset    int64
	}
	if len(letters) == 0 {
		return nil
	}
	byPosition := map[position]*DeadRecord{}
	var places []string
	var args []any
	for _, d := range letters {
		byPosition[position{d.Topic, d.Epoch, d.Partition, d.Offset}] = d
		places, args = append(places, "(?,?,?,?)"), append(args, d.Topic, d.Epoch, d.Partition, d.Offset)
	}
	return c.audit(ctx, "read dead letters", "SELECT topic, epoch, partition, offset, value FROM "+c.table(tableDeadLetters)+
		" WHERE (topic, epoch, partition, offset) IN ("+strings.Join(places, ",")+")", args, func(rows driver.Rows) error {
		var at position
		var value *string
		err := rows.Scan(&at.topic, &at.epoch, &at.partition, &at.offset, &value)
		if d := byPosition[at]; d != nil && value != nil {
			d.Source.Value = new([]byte(*value))
		}
		return err
	})
}

// DeadReplays returns the last attempt at each item of which a replay became a dead letter.
func (c *Conn) DeadReplays(ctx context.Context, tenant string) (map[string]int32, error) {
	last := map[string]int32{}
	where, args := ofTenant(tenant, []any{schemas.HeaderFirst})
	err := c.audit(ctx, "look for dead replays", "SELECT header_key, header_value FROM "+c.table(tableDeadLetters)+" WHERE has(header_key, ?)"+where, args, func(rows driver.Rows) error {
		var names, values []string
		err := rows.Scan(&names, &values)
		var headers []kgo.RecordHeader
		for i := range names {
			headers = append(headers, kgo.RecordHeader{Key: names[i], Value: []byte(values[i])})
		}
		if env, _ := schemas.ParseEnvelope(headers); env.First != nil {
			last[env.First.ID] = max(last[env.First.ID], env.Attempt)
		}
		return err
	})
	return last, err
}

// LastAttempts is the highest attempt at each item that has an outcome; items without any are absent.
func (c *Conn) LastAttempts(ctx context.Context, ids []string) (map[string]int32, error) {
	last := map[string]int32{}
	for chunk := range slices.Chunk(ids, auditChunk) {
		args := make([]any, len(outcomeTables()))
		for i := range args {
			args[i] = chunk
		}
		err := c.audit(ctx, "ask for items' attempts", "SELECT id, max(attempt) FROM ("+c.outcomesSQL("id, attempt", "id IN (?)")+") GROUP BY id", args, func(rows driver.Rows) error {
			var id string
			var attempt int32
			err := rows.Scan(&id, &attempt)
			last[id] = attempt
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return last, nil
}

// OwnershipKey names the record of who owns how many of a product: folded user name and SKU.
type OwnershipKey struct{ Tenant, User, SKU string }

// OwnershipChanges is when the record of a key was changed last, as versions; -1: never.
type OwnershipChanges struct {
	Last int64 // in any way
	Set  int64 // to a quantity that does not depend on the one before
}

// OwnershipChanges says of each key when it was changed last. It knows of records that are gone, of which the engine keeps nothing.
func (c *Conn) OwnershipChanges(ctx context.Context, keys []OwnershipKey) (map[OwnershipKey]OwnershipChanges, error) {
	changes := map[OwnershipKey]OwnershipChanges{}
	for chunk := range slices.Chunk(keys, auditChunk) {
		var args []any
		for _, k := range chunk {
			args = append(args, k.Tenant, k.SKU, k.User)
			changes[k] = OwnershipChanges{-1, -1}
		}
		sql := "SELECT tenant, sku_key, user_key, max(version), ifNull(maxOrNullIf(version, isNotNull(requested_quantity) OR requested_has_product = 0 OR requested_has_product = 1 AND isNull(requested_increase_quantity_by)), -1) FROM " +
			c.table(schemas.KindOwnership) + " WHERE (tenant, sku_key, user_key) IN (" + strings.TrimSuffix(strings.Repeat("(?,?,?),", len(chunk)), ",") + ") GROUP BY tenant, sku_key, user_key"
		err := c.audit(ctx, "ask for changes of ownership", sql, args, func(rows driver.Rows) error {
			var k OwnershipKey
			var at OwnershipChanges
			err := rows.Scan(&k.Tenant, &k.SKU, &k.User, &at.Last, &at.Set)
			changes[k] = at
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return changes, nil
}
