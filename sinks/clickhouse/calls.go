package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/counterfoil/counterfoil/schemas"
)

// FindCalls answers what a round of sales asks of the calls: for each MHID and number the calls on both sides of the sale's day. The answers
// are parallel to the queries. They say of every call what its last version in the table says, deleted calls and former numbers left out;
// whoever asks makes sure first that the sink has committed what it wants to be there.
//
// It is one query for each shard, however many keys there are: keys travel as a table, and calls lie together by key in tables of their own
// (moves.go), so that the time grows with the number of keys and the calls of these keys, and hardly with the size of the table.
func (c *Conn) FindCalls(ctx context.Context, queries []schemas.CallQuery) ([]schemas.CallsFound, error) {
	asked, err := newAsked(queries)
	if err != nil {
		return nil, fmt.Errorf("find calls: %w", err)
	}
	if len(asked.keys) > 0 {
		// A call and its places lie on one shard, so that each shard knows its own calls for sure, and the nearest of all is among
		// the nearest of each.
		found, errs := make([][]schemas.Nearest, len(c.shards)), make([]error, len(c.shards))
		var group sync.WaitGroup
		for shard := range c.shards {
			group.Go(func() { found[shard], errs[shard] = c.findOnShard(ctx, shard, asked) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("find calls: %w", err)
		}
		for _, of := range found {
			for i := range of {
				asked.found[i].Last = nearer(asked.found[i].Last, of[i].Last, 1)
				asked.found[i].Next = nearer(asked.found[i].Next, of[i].Next, -1)
			}
		}
	}
	return asked.answers(queries), nil
}

// nearer is the later of two calls (sign 1) or the earlier (-1), of those at one instant the one with the higher id.
func nearer(a, b *schemas.FoundCall, sign int) *schemas.FoundCall {
	if a == nil || b == nil {
		if a == nil {
			return b
		}
		return a
	}
	if order := sign * b.StartedAt.Compare(a.StartedAt); order > 0 || order == 0 && b.ID > a.ID {
		return b
	}
	return a
}

// callKey is one thing to look for. Many sales may ask for the same.
type callKey struct {
	byMHID      bool
	tenant, key string
	until       int64 // milliseconds
}

// asked are the distinct keys of a round, and what was found of each.
type asked struct {
	keys  []callKey
	at    map[callKey]int
	found []schemas.Nearest
}

func newAsked(queries []schemas.CallQuery) (*asked, error) {
	a := &asked{at: map[callKey]int{}}
	for i := range queries {
		q := &queries[i]
		if q.Until.Before(minInstant) || q.Until.After(maxInstant) {
			return nil, fmt.Errorf("the end of day %s of query %d is out of range", q.Until.Format(time.RFC3339), i)
		}
		for _, k := range keysOf(q) {
			if _, ok := a.at[k]; !ok && k.key != "" {
				a.at[k] = len(a.keys)
				a.keys = append(a.keys, k)
			}
		}
	}
	a.found = make([]schemas.Nearest, len(a.keys))
	return a, nil
}

// keysOf are the keys of a query: the MHID, then the numbers.
func keysOf(q *schemas.CallQuery) []callKey {
	// Calls have milliseconds: one at or after Until is one at or after the next whole one.
	until := q.Until.Add(time.Millisecond - 1).UnixMilli()
	keys := make([]callKey, 0, 1+len(q.Numbers))
	keys = append(keys, callKey{byMHID: true, tenant: q.Tenant, key: q.MHID, until: until})
	for _, n := range q.Numbers {
		keys = append(keys, callKey{tenant: q.Tenant, key: n, until: until})
	}
	return keys
}

func (a *asked) answers(queries []schemas.CallQuery) []schemas.CallsFound {
	all := make([]schemas.CallsFound, len(queries))
	for i := range queries {
		all[i].Numbers = make([]schemas.Nearest, len(queries[i].Numbers))
		for j, k := range keysOf(&queries[i]) {
			at, ok := a.at[k]
			switch {
			case !ok: // no key
			case j == 0:
				all[i].MHID = a.found[at]
			default:
				all[i].Numbers[j-1] = a.found[at]
			}
		}
	}
	return all
}

// callTables are the tables by key, with the name of the key.
var callTables = []struct {
	table, key string
	byMHID     bool
}{{"calls_by_number_state", "number_key", false}, {"calls_by_mhid_state", "mhid_key", true}}

func (c *Conn) findOnShard(ctx context.Context, shard int, a *asked) ([]schemas.Nearest, error) {
	sql := ""
	var tables []*ext.Table
	for _, t := range callTables {
		keys, err := ext.NewTable("asked_"+t.key, ext.Column("place", "UInt32"), ext.Column("tenant", "String"), ext.Column("key", "String"), ext.Column("until", "Int64"))
		if err != nil {
			return nil, err
		}
		rows := 0
		for i, k := range a.keys {
			if k.byMHID == t.byMHID {
				rows++
				if err := keys.Append(uint32(i), k.tenant, k.key, k.until); err != nil {
					return nil, err
				}
			}
		}
		if rows == 0 {
			continue
		}
		if sql != "" {
			sql += "\nUNION ALL\n"
		}
		tables = append(tables, keys)
		sql += c.findSQL(t.table, t.key, keys.Name())
	}
	ctx = ch.Context(ctx, ch.WithExternalTable(tables...))
	found := make([]schemas.Nearest, len(a.keys))
	err := c.onShard(shard, func(conn driver.Conn) error {
		for _, t := range callTables {
			if err := c.syncReplica(ctx, shard, conn, t.table); err != nil {
				return err
			}
		}
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var place uint32
			var side uint8
			call := &schemas.FoundCall{}
			if err := rows.Scan(&place, &side, &call.ID, &call.StartedAt, &call.MHID, &call.CallerNumber, &call.Campaign, &call.Source, &call.Medium, &call.Keyword); err != nil {
				return err
			}
			if side == 0 {
				found[place].Last = call
			} else {
				found[place].Next = call
			}
		}
		return rows.Err()
	})
	return found, err
}

// findSQL finds the nearest calls of one kind of key, on both sides (0: before).
//
// The tables are ordered by a hash of the key, because a number is compared in a tenth of the time of a text, and there are thousands of keys
// to be found in the index; the join by the key itself leaves out what has the same hash. The last version of a call at one place and time
// counts, and not where it is a deleted one.
func (c *Conn) findSQL(table, key, keys string) string {
	tuple := ""
	for i := range callColumns {
		tuple += fmt.Sprintf(", tupleElement(call, %d)", i+1)
	}
	columns := ""
	for _, name := range callColumns {
		columns += ", " + name
	}
	return "SELECT place, side, call_id, at" + tuple + `
FROM (
    SELECT place, side, argMax(tuple(id, started_at, last), tuple(if(side = 0, 1, -1) * toUnixTimestamp64Milli(started_at), id)) AS best,
        tupleElement(best, 1) AS call_id, tupleElement(best, 2) AS at, tupleElement(best, 3) AS call
    FROM (
        SELECT q.place AS place, toUInt8(toUnixTimestamp64Milli(c.started_at) >= q.until) AS side, c.started_at AS started_at, c.id AS id,
            argMax(tuple(` + columns[2:] + `), version) AS last, argMax(is_deleted, version) AS gone
        FROM ` + c.local(table) + ` AS c
        INNER JOIN (SELECT place, tenant, key, until, sipHash64(key) AS hash FROM ` + keys + `) AS q ON q.tenant = c.tenant AND q.hash = c.hash AND q.key = c.` + key + `
        WHERE c.tenant IN (SELECT tenant FROM ` + keys + `) AND c.hash IN (SELECT sipHash64(key) FROM ` + keys + `)
        GROUP BY place, side, started_at, id
        HAVING gone = 0
    )
    GROUP BY place, side
)`
}

// callColumns is what an answer has of a call beside its id and time, in the order of the answer.
var callColumns = []string{"mhid", "caller_number", "campaign", "source", "medium", "keyword"}
