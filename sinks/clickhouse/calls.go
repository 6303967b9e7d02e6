package clickhouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
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
	if len(asked.spans) > 0 {
		// A call and its places lie on one shard, so that each shard knows its own calls for sure, and the nearest of all is among
		// the nearest of each.
		found, errs := make([][]foundCall, len(c.shards)), make([]error, len(c.shards))
		var group sync.WaitGroup
		for shard := range c.shards {
			group.Go(func() { found[shard], errs[shard] = c.findOnShard(ctx, shard, asked) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("find calls: %w", err)
		}
		for _, f := range slices.Concat(found...) {
			if s := &asked.spans[f.span]; f.latest {
				s.latest = nearer(s.latest, f.call, 1)
			} else {
				s.earliest = nearer(s.earliest, f.call, -1)
			}
		}
	}
	return asked.answers(queries), nil
}

// nearer is the later of two calls (sign 1) or the earlier (-1), of those at one instant the one with the higher id.
func nearer(a, b *schemas.FoundCall, sign int) *schemas.FoundCall {
	if a == nil {
		return b
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

// asked are the distinct keys of a round, each with its distinct Untils in their order: the Untils of a key cut the time into spans, of which
// the first is before all of them. Only the first and the last call of each span matter, however many sales ask for one key, and however many
// calls it has.
type asked struct {
	spans []span
	at    map[callKey]int // of the span that begins with the Until
}

// span is a span of time of one key, up to the next span of the same key.
type span struct {
	callKey          // until is where the span begins
	first, last bool // of the key
	earliest    *schemas.FoundCall
	latest      *schemas.FoundCall
}

// always is where the first span of each key begins.
const always = math.MinInt64

func newAsked(queries []schemas.CallQuery) (*asked, error) {
	a := &asked{at: map[callKey]int{}}
	for i := range queries {
		q := &queries[i]
		if q.Until.Before(minInstant) || q.Until.After(maxInstant) {
			return nil, fmt.Errorf("the end of day %s of query %d is out of range", q.Until.Format(time.RFC3339), i)
		}
		for _, k := range keysOf(q) {
			for _, begin := range []int64{always, k.until} {
				k.until = begin
				if _, ok := a.at[k]; !ok && k.key != "" {
					a.at[k] = -1
					a.spans = append(a.spans, span{callKey: k})
				}
			}
		}
	}
	slices.SortFunc(a.spans, func(x, y span) int {
		order := cmp.Or(strings.Compare(x.tenant, y.tenant), strings.Compare(x.key, y.key), cmp.Compare(x.until, y.until))
		if x.byMHID != y.byMHID {
			order = 1
			if x.byMHID {
				order = -1
			}
		}
		return order
	})
	for i := range a.spans {
		s := &a.spans[i]
		a.at[s.callKey] = i
		s.first = s.until == always
		s.last = i+1 == len(a.spans) || a.spans[i+1].until == always
	}
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

// answers says what the spans on both sides of each Until have; an empty one has what the next one further away has.
func (a *asked) answers(queries []schemas.CallQuery) []schemas.CallsFound {
	last, next := make([]*schemas.FoundCall, len(a.spans)), make([]*schemas.FoundCall, len(a.spans))
	for i := range a.spans {
		if last[i] = a.spans[i].latest; last[i] == nil && !a.spans[i].first {
			last[i] = last[i-1]
		}
	}
	for i := len(a.spans) - 1; i >= 0; i-- {
		if next[i] = a.spans[i].earliest; next[i] == nil && !a.spans[i].last {
			next[i] = next[i+1]
		}
	}
	all := make([]schemas.CallsFound, len(queries))
	for i := range queries {
		all[i].Numbers = make([]schemas.Nearest, len(queries[i].Numbers))
		for j, k := range keysOf(&queries[i]) {
			at, ok := a.at[k]
			if !ok {
				continue // no key
			}
			nearest := schemas.Nearest{Last: last[at-1], Next: next[at]}
			if j == 0 {
				all[i].MHID = nearest
			} else {
				all[i].Numbers[j-1] = nearest
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

// foundCall is a row of an answer: a call at an edge of a span.
type foundCall struct {
	span   uint32
	latest bool
	call   *schemas.FoundCall
}

func (c *Conn) findOnShard(ctx context.Context, shard int, a *asked) (found []foundCall, err error) {
	err = c.onShard(shard, func(conn driver.Conn) error {
		for _, t := range callTables {
			if err := c.syncReplica(ctx, shard, conn, t.table); err != nil {
				return err
			}
		}
		var err error
		if found, err = c.findTogether(ctx, conn, a, nil, min(findRows, fewRows+fewRowsOfSpan*len(a.spans))); tooHeavy(err) {
			hot, hotErr := c.hotKeys(ctx, conn, a)
			if hotErr != nil {
				return errors.Join(err, hotErr)
			}
			if len(hot) == 0 && !isTooManyRows(err) {
				return err
			}
			if found, err = c.findTogether(ctx, conn, a, hot, findRows); err == nil {
				found, err = c.findEach(ctx, conn, a, hot, found)
			}
		}
		return err
	})
	if tooHeavy(err) {
		err = fmt.Errorf("%w: %w", schemas.ErrQueryTooHeavy, err)
	}
	return found, err
}

// tooHeavy reports that ClickHouse answered with a limit: TOO_MANY_ROWS, TIMEOUT_EXCEEDED, TOO_SLOW, SET_SIZE_LIMIT_EXCEEDED,
// MEMORY_LIMIT_EXCEEDED, TOO_MANY_BYTES, TOO_MANY_ROWS_OR_BYTES.
func tooHeavy(err error) bool {
	var exception *ch.Exception
	return errors.As(err, &exception) && slices.Contains([]int32{158, 159, 160, 191, 241, 307, 396}, exception.Code)
}

// isTooManyRows reports that a query would read more rows than it may, which ClickHouse knows from the index, before it reads.
func isTooManyRows(err error) bool {
	var exception *ch.Exception
	return errors.As(err, &exception) && exception.Code == 158
}

// Limits of the query for all keys. Beyond fewRows and fewRowsOfSpan it is worth while to look for hot keys before anything is read. 10,000 sales among a million calls read a million rows in 300 MiB and a second. findRows is a variable for
// the tests.
const (
	findMemory    = 1 << 30
	findSeconds   = 20 // less than matching waits
	fewRows       = 200_000
	fewRowsOfSpan = 256 // two granules
)

var findRows = 50_000_000

// keyTable is a table with the keys that the spans asked for have, under its name and that of its key, but for those that are left out.
func (a *asked) keyTable(key string, byMHID bool, except map[callKey]bool) (*ext.Table, int, error) {
	keys, err := ext.NewTable("asked_"+key, ext.Column("span", "UInt32"), ext.Column("tenant", "String"), ext.Column("key", "String"),
		ext.Column("begin", "Int64"), ext.Column("edges", "Array(UInt8)"))
	if err != nil {
		return nil, 0, err
	}
	rows := 0
	for i := range a.spans {
		s := &a.spans[i]
		if s.byMHID != byMHID || except[s.anyTime()] {
			continue
		}
		rows++
		if err := keys.Append(uint32(i), s.tenant, s.key, s.until, s.edges()); err != nil {
			return nil, 0, err
		}
	}
	return keys, rows, nil
}

// edges are the ends of the span that matter: 0 the earliest call, 1 the latest. Nobody asks for what is first of all, or last.
func (s *span) edges() []uint8 {
	edges := []uint8{0, 1}
	if s.first {
		edges = edges[1:]
	}
	if s.last {
		edges = edges[:len(edges)-1]
	}
	return edges
}

// anyTime is the key without its Until.
func (k callKey) anyTime() callKey {
	k.until = 0
	return k
}

// findTogether finds the calls of all keys but those that are left out; it reads so many rows at most.
func (c *Conn) findTogether(ctx context.Context, conn driver.Conn, a *asked, except map[callKey]bool, most int) ([]foundCall, error) {
	sql := ""
	var tables []*ext.Table
	for _, t := range callTables {
		keys, rows, err := a.keyTable(t.key, t.byMHID, except)
		if err != nil {
			return nil, err
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
	if sql == "" {
		return nil, nil
	}
	// In the text, because the driver puts the context's time in the place of a setting.
	sql = fmt.Sprintf("SELECT * FROM (\n%s\n) SETTINGS max_memory_usage = %d, max_rows_to_read = %d, max_execution_time = %d", sql, findMemory, most, findSeconds)
	rows, err := conn.Query(ch.Context(ctx, ch.WithExternalTable(tables...)), sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []foundCall
	for rows.Next() {
		f := foundCall{call: &schemas.FoundCall{}}
		var edge uint8
		if err := rows.Scan(append([]any{&f.span, &edge}, scanned(f.call)...)...); err != nil {
			return nil, err
		}
		f.latest = edge == 1
		found = append(found, f)
	}
	return found, rows.Err()
}

// scanned is where the id, the time and callColumns of a row go.
func scanned(call *schemas.FoundCall) []any {
	return []any{&call.ID, &call.StartedAt, &call.MHID, &call.CallerNumber, &call.Campaign, &call.Source, &call.Medium, &call.Keyword}
}

// hotRows is how many rows of a key are too many to look at all of them. A variable for the tests.
var hotRows = 20_000

// hotKeys finds the keys with very many rows.
func (c *Conn) hotKeys(ctx context.Context, conn driver.Conn, a *asked) (map[callKey]bool, error) {
	hot := map[callKey]bool{}
	for _, t := range callTables {
		keys, n, err := a.keyTable(t.key, t.byMHID, nil)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		rows, err := conn.Query(ch.Context(ctx, ch.WithExternalTable(keys)), "SELECT tenant, "+t.key+" FROM "+c.local(t.table)+
			" WHERE tenant IN (SELECT tenant FROM "+keys.Name()+") AND hash IN (SELECT sipHash64(key) FROM "+keys.Name()+
			") GROUP BY tenant, "+t.key+" HAVING count() > ?", hotRows)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			k := callKey{byMHID: t.byMHID}
			if err := rows.Scan(&k.tenant, &k.key); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			hot[k] = true
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	return hot, nil
}

// findEach adds the calls of hot keys to what was found. The tables have the calls of a key in the order of time, so that those at the edge of
// a span are read and no others: a few milliseconds for each edge, however many calls the key has.
func (c *Conn) findEach(ctx context.Context, conn driver.Conn, a *asked, hot map[callKey]bool, found []foundCall) ([]foundCall, error) {
	for i := range a.spans {
		s := &a.spans[i]
		if !hot[s.anyTime()] {
			continue
		}
		begin, end := minInstant.UnixMilli(), maxInstant.UnixMilli()
		if !s.first {
			begin = s.until
		}
		if !s.last {
			end = a.spans[i+1].until - 1
		}
		for _, edge := range s.edges() {
			call, err := c.findEdge(ctx, conn, s.callKey, begin, end, edge == 1)
			if err != nil {
				return nil, err
			}
			if call != nil {
				found = append(found, foundCall{uint32(i), edge == 1, call})
			}
		}
	}
	return found, nil
}

// findEdge finds the latest or the earliest call of a key between two instants, both included. It reads rows from that side until it has a
// call that is not deleted, more of them each time.
func (c *Conn) findEdge(ctx context.Context, conn driver.Conn, k callKey, begin, end int64, latest bool) (*schemas.FoundCall, error) {
	t, order, sign := callTables[0], "", -1
	if k.byMHID {
		t = callTables[1]
	}
	if latest {
		order, sign = " DESC", 1
	}
	sql := "SELECT version, is_deleted, id, started_at, " + strings.Join(callColumns, ", ") + " FROM " + c.local(t.table) + " WHERE tenant = ? AND hash = sipHash64(?) AND " + t.key +
		" = ? AND started_at BETWEEN fromUnixTimestamp64Milli(toInt64(?), 'UTC') AND fromUnixTimestamp64Milli(toInt64(?), 'UTC') ORDER BY started_at" + order + " LIMIT ?"
	type place struct {
		at int64
		id string
	}
	type row struct {
		version int64
		gone    uint8
		call    *schemas.FoundCall
	}
	for limit := edgeRows; ; limit *= 4 {
		rows, err := conn.Query(ctx, sql, k.tenant, k.key, k.key, begin, end, limit)
		if err != nil {
			return nil, err
		}
		last, n, furthest := map[place]row{}, 0, int64(0)
		for rows.Next() {
			r := row{call: &schemas.FoundCall{}}
			if err := rows.Scan(append([]any{&r.version, &r.gone}, scanned(r.call)...)...); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			n++
			furthest = r.call.StartedAt.UnixMilli()
			p := place{furthest, r.call.ID}
			if old, ok := last[p]; !ok || r.version > old.version {
				last[p] = r
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
		var nearest *schemas.FoundCall
		for p, r := range last {
			// Of the last instant some rows may not have been read.
			if r.gone == 0 && (n < limit || p.at != furthest) {
				nearest = nearer(nearest, r.call, sign)
			}
		}
		if nearest != nil || n < limit {
			return nearest, nil
		}
		if latest {
			end = furthest
		} else {
			begin = furthest
		}
	}
}

// edgeRows is how many rows findEdge reads at first. A variable for the tests.
var edgeRows = 128

// findSQL finds the calls at the edges of the spans (0: the earliest, 1: the latest) of one kind of key.
//
// The tables are ordered by a hash of the key, because a number is compared in a tenth of the time of a text, and there are thousands of keys
// to be found in the index; the join by the key itself leaves out what has the same hash. Each call is in the span that began last. The last
// version of a call at one place and time counts, and not where it is a deleted one.
func (c *Conn) findSQL(table, key, keys string) string {
	columns := strings.Join(callColumns, ", ")
	tuple := ""
	for i := range len(callColumns) + 2 {
		tuple += fmt.Sprintf(", tupleElement(if(edge = 0, earliest, latest), %d)", i+1)
	}
	return "SELECT span, edge" + tuple + `
FROM (
    SELECT span, any(edges) AS both, argMax(call, tuple(-at, call_id)) AS earliest, argMax(call, tuple(at, call_id)) AS latest
    FROM (
        SELECT q.span AS span, any(q.edges) AS edges, c.at AS at, c.id AS call_id,
            argMax(tuple(c.id, c.started_at, ` + columns + `), c.version) AS call, argMax(c.is_deleted, c.version) AS gone
        FROM (
            SELECT tenant, hash, ` + key + ` AS call_key, toUnixTimestamp64Milli(started_at) AS at, started_at, id, version, is_deleted, ` + columns + `
            FROM ` + c.local(table) + `
            WHERE tenant IN (SELECT tenant FROM ` + keys + `) AND hash IN (SELECT sipHash64(key) FROM ` + keys + `)
        ) AS c
        ASOF INNER JOIN (SELECT span, tenant, key, begin, edges, sipHash64(key) AS hash FROM ` + keys + `) AS q
            ON q.tenant = c.tenant AND q.hash = c.hash AND q.key = c.call_key AND q.begin <= c.at
        GROUP BY span, at, call_id
        HAVING gone = 0
    )
    GROUP BY span
)
ARRAY JOIN both AS edge`
}

// callColumns is what an answer has of a call beside its id and time, in the order of the answer.
var callColumns = []string{"mhid", "caller_number", "campaign", "source", "medium", "keyword"}
