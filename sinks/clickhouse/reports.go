package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
)

// reportLimit is how long a question may take. A caller waits for it; where ClickHouse hangs, it must hear so.
const reportLimit = 5 * time.Second

// Reports answers what the HTTP doors ask of ClickHouse. Every question names the tenant, and no answer holds another's rows.
type Reports struct {
	conn   *Conn
	buying func() (*buyingQueries, error)
}

// Reports are the report queries over this connection.
func (c *Conn) Reports() *Reports {
	return &Reports{conn: c, buying: sync.OnceValues(c.buyingQueries)}
}

// Ownership is who owns a product now, by the folded SKU ([schemas.Fold]), in the order of the folded user names. Empty: nobody does.
func (r *Reports) Ownership(ctx context.Context, tenant, skuKey string) ([]schemas.OwnershipReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	rows, err := r.conn.any.Query(ctx, "SELECT user_name, product_sku, time_of_approval, source, quantity FROM "+r.conn.table("ownership_current")+
		" WHERE tenant = ? AND sku_key = ? ORDER BY user_key", tenant, skuKey)
	if err != nil {
		return nil, fmt.Errorf("current ownership: %w", err)
	}
	defer rows.Close()
	var all []schemas.OwnershipReport
	for rows.Next() {
		var o schemas.OwnershipReport
		if err := rows.Scan(&o.UserName, &o.ProductSKU, &o.TimeOfApproval, &o.Source, &o.Quantity); err != nil {
			return nil, fmt.Errorf("current ownership: %w", err)
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// Batch is the batch with the given number; nil: there is none (yet) of this tenant.
func (r *Reports) Batch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	batches, err := r.batches(ctx, "number = ?", "1", tenant, number)
	if err != nil || len(batches) == 0 {
		return nil, err
	}
	return &batches[0], nil
}

// Batches are the newest first, with numbers below before (0: from the newest on), at most limit.
func (r *Reports) Batches(ctx context.Context, tenant string, before int64, limit int) ([]schemas.BatchReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	if before == 0 {
		before = 1<<63 - 1
	}
	return r.batches(ctx, "number < ?", strconv.Itoa(limit), tenant, before)
}

// DoorBatches are the batches that came in by one door, the newest first, without the first offset of them, at most limit.
func (r *Reports) DoorBatches(ctx context.Context, tenant, door string, offset int64, limit int) ([]schemas.BatchReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	return r.batches(ctx, "door = ?", fmt.Sprintf("%d OFFSET %d", limit, offset), tenant, door)
}

// batches reads headers and counts outcomes in two queries: the view batch_status would count every batch for one.
func (r *Reports) batches(ctx context.Context, where, limit, tenant string, value any) ([]schemas.BatchReport, error) {
	rows, err := r.conn.any.Query(ctx, "SELECT number, key, tenant, kind, item_kind, door, toInt64(items), accepted_at, lookback FROM "+r.conn.table("batches")+
		" WHERE tenant = ? AND "+where+" ORDER BY number DESC LIMIT "+limit, tenant, value)
	if err != nil {
		return nil, fmt.Errorf("batches: %w", err)
	}
	defer rows.Close()
	var all []schemas.BatchReport
	at := map[string]int{}
	var keys []string
	for rows.Next() {
		var b schemas.BatchReport
		if err := rows.Scan(&b.Number, &b.Key, &b.Tenant, &b.Kind, &b.ItemKind, &b.Door, &b.Items, &b.AcceptedAt, &b.Lookback); err != nil {
			return nil, fmt.Errorf("batches: %w", err)
		}
		at[b.Key] = len(all)
		keys = append(keys, b.Key)
		all = append(all, b)
	}
	if err := rows.Err(); err != nil || len(all) == 0 {
		return nil, err
	}
	// As the view batch_status has it, for these batches only.
	counts, err := r.conn.any.Query(ctx, "SELECT batch, toInt64(countIf(ok = 1)), toInt64(countIf(ok = 0)), toInt64(countIf(fault = 1)) FROM ("+
		"SELECT batch, argMax(processed, attempt) AS ok, argMin(internal_error, attempt) AS fault FROM "+r.conn.table("outcomes")+
		" WHERE tenant = ? AND batch IN (?) GROUP BY batch, `index` HAVING min(attempt) = 1) GROUP BY batch", tenant, keys)
	if err != nil {
		return nil, fmt.Errorf("outcomes of batches: %w", err)
	}
	defer counts.Close()
	for counts.Next() {
		var key string
		var good, bad, faults int64
		if err := counts.Scan(&key, &good, &bad, &faults); err != nil {
			return nil, fmt.Errorf("outcomes of batches: %w", err)
		}
		b := &all[at[key]]
		b.Processed, b.Unprocessed, b.Failed = good, bad, b.Items > 0 && faults >= b.Items
	}
	return all, counts.Err()
}

// BatchItems are the items of a batch whose last attempt was processed, or was not, by index, with indexes above after (-1: from the first
// on), at most limit. kind is the batch's.
func (r *Reports) BatchItems(ctx context.Context, tenant, kind, batchKey string, processed bool, after int32, limit int) ([]schemas.ItemReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	topic, ok := schemas.TopicNamed(schemas.ProcessedTopic(kind))
	if !ok {
		return nil, fmt.Errorf("items of a batch: no table for the kind %q", kind)
	}
	log, where := tablesOf(topic)[0].name, " WHERE tenant = ? AND batch = ? AND `index` > ?"
	whereLog := where
	if kind == schemas.KindSales {
		whereLog += " AND matched" // the others are in unprocessed as well
	}
	const none = ", CAST([], 'Array(String)') AS codes, CAST([], 'Array(String)') AS fields, CAST([], 'Array(Nullable(String))') AS vals, CAST([], 'Array(String)') AS messages"
	const reasons = ", reason_code AS codes, reason_field AS fields, reason_value AS vals, reason_message AS messages"
	const head = "SELECT `index`, attempt, id, ref, "
	rows, err := r.conn.any.Query(ctx, fmt.Sprintf(`SELECT idx, tupleElement(last, 1), tupleElement(last, 2), tupleElement(last, 3), tupleElement(last, 4), tupleElement(last, 5), tupleElement(last, 6)
FROM (
    SELECT `+"`index`"+` AS idx, argMax(ok, attempt) AS good, argMax(tuple(id, ref, codes, fields, vals, messages), attempt) AS last
    FROM (%s1 AS ok%s FROM %s%s UNION ALL %s0 AS ok%s FROM %s%s)
    GROUP BY idx
)
WHERE good = ? ORDER BY idx LIMIT %d`, head, none, r.conn.table(log), whereLog, head, reasons, r.conn.table("unprocessed"), where, limit),
		tenant, batchKey, after, tenant, batchKey, after, processed)
	if err != nil {
		return nil, fmt.Errorf("items of a batch: %w", err)
	}
	defer rows.Close()
	var all []schemas.ItemReport
	for rows.Next() {
		var it schemas.ItemReport
		var codes, fields, messages []string
		var values []*string
		if err := rows.Scan(&it.Index, &it.ID, &it.Ref, &codes, &fields, &values, &messages); err != nil {
			return nil, fmt.Errorf("items of a batch: %w", err)
		}
		it.Reasons = reasonsOf(codes, fields, values, messages)
		all = append(all, it)
	}
	return all, rows.Err()
}
