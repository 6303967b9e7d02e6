package clickhouse

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
// (moves.go), so that the time grows with the number of keys and the calls of these keys, and hardly with the size of the table. ClickHouse
// only fetches the rows of the keys, which are few for most keys; which of them are the nearest is decided here, in a tenth of the time.
func (c *Conn) FindCalls(ctx context.Context, queries []schemas.CallQuery) ([]schemas.CallsFound, error) {
	a, err := newAsked(queries)
	if err != nil {
		return nil, fmt.Errorf("find calls: %w", err)
	}
	if len(a.keys) > 0 {
		// A call and its places lie on one shard, so that each shard knows its own calls for sure.
		found, errs := make([][]callRow, len(c.shards)), make([]error, len(c.shards))
		var group sync.WaitGroup
		for shard := range c.shards {
			group.Go(func() { found[shard], errs[shard] = c.findOnShard(ctx, shard, a) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("find calls: %w", err)
		}
		a.settle(found)
	}
	return a.answers(queries)
}

// asked are the distinct keys of a round.
type asked struct {
	keys []callKey
	// places are the indexes in keys of what the queries ask for, one after the other: the MHID, then the numbers. -1: nothing.
	places []int
	// at is the index of a key by what its rows begin with, for each of callTables.
	at [2]map[string]int
}

// callKey is one thing to look for, however many sales ask for it.
type callKey struct {
	table       int // of callTables
	tenant, key string
	untils      []int64   // of the sales
	calls       []callRow // once settled: those that are there, in the order of time and id
}

// callTables are the tables by key.
var callTables = [2]string{"calls_by_number_state", "calls_by_mhid_state"}

// Indexes of callTables.
const (
	byNumber = iota
	byMHID
)

func newAsked(queries []schemas.CallQuery) (*asked, error) {
	a := &asked{keys: make([]callKey, 0, len(queries)), places: make([]int, 0, 2*len(queries))}
	for table := range a.at {
		a.at[table] = make(map[string]int, len(queries))
	}
	for i := range queries {
		q := &queries[i]
		if q.Until.Before(minInstant) || q.Until.After(maxInstant) {
			return nil, fmt.Errorf("the end of day %s of query %d is out of range", q.Until.Format(time.RFC3339), i)
		}
		a.add(byMHID, q.MHID, q)
		for _, number := range q.Numbers {
			a.add(byNumber, number, q)
		}
	}
	return a, nil
}

func (a *asked) add(table int, key string, q *schemas.CallQuery) {
	if key == "" {
		a.places = append(a.places, -1)
		return
	}
	begin := beginning(q.Tenant, key)
	at, ok := a.at[table][begin]
	if !ok {
		at = len(a.keys)
		a.at[table][begin] = at
		a.keys = append(a.keys, callKey{table: table, tenant: q.Tenant, key: key})
	}
	a.keys[at].untils = append(a.keys[at].untils, untilOf(q))
	a.places = append(a.places, at)
}

// untilOf is the Until of a query in milliseconds, which calls have: one at or after Until is one at or after the next whole millisecond.
func untilOf(q *schemas.CallQuery) int64 { return q.Until.Add(time.Millisecond - 1).UnixMilli() }

// settle gives the keys the calls that were found.
func (a *asked) settle(found [][]callRow) {
	ends := make([]int, len(a.keys)+1) // of the rows of the key before
	n := 0
	for _, rows := range found {
		n += len(rows)
		for i := range rows {
			ends[rows[i].key+1]++
		}
	}
	for i := range a.keys {
		ends[i+1] += ends[i]
	}
	all := make([]callRow, n)
	next := slices.Clone(ends)
	for _, rows := range found {
		for i := range rows {
			at := &next[rows[i].key]
			all[*at] = rows[i]
			*at++
		}
	}
	for i := range a.keys {
		a.keys[i].calls = lastVersions(all[ends[i]:ends[i+1]])
	}
}

// lastVersions are the calls that rows of one key tell of, in the order of time and id. The last version of a call at one time counts, and not
// where it is a deleted one.
func lastVersions(rows []callRow) []callRow {
	slices.SortFunc(rows, func(x, y callRow) int {
		if x.startedAt != y.startedAt {
			return cmp.Compare(x.startedAt, y.startedAt)
		}
		return cmp.Or(strings.Compare(x.id, y.id), cmp.Compare(y.version, x.version))
	})
	rows = slices.CompactFunc(rows, func(x, y callRow) bool { return x.startedAt == y.startedAt && x.id == y.id })
	return slices.DeleteFunc(rows, func(r callRow) bool { return r.deleted })
}

func (a *asked) answers(queries []schemas.CallQuery) ([]schemas.CallsFound, error) {
	all := make([]schemas.CallsFound, len(queries))
	places := a.places
	for i := range queries {
		q, found := &queries[i], &all[i]
		found.Numbers = make([]schemas.Nearest, len(q.Numbers))
		until := untilOf(q)
		for j := -1; j < len(q.Numbers); j++ {
			at := places[0]
			places = places[1:]
			if at < 0 {
				continue
			}
			nearest, err := a.keys[at].nearest(until)
			if err != nil {
				return nil, fmt.Errorf("find calls: %s: %w", callTables[a.keys[at].table], err)
			}
			if j < 0 {
				found.MHID = nearest
			} else {
				found.Numbers[j] = nearest
			}
		}
	}
	return all, nil
}

// nearest are the calls on both sides of an instant.
func (k *callKey) nearest(until int64) (n schemas.Nearest, err error) {
	after, _ := slices.BinarySearchFunc(k.calls, until, func(r callRow, until int64) int { return cmp.Compare(r.startedAt, until) })
	if last := latestOf(k.calls[:after]); last != nil {
		if n.Last, err = last.call(); err != nil {
			return n, err
		}
	}
	if next := earliestOf(k.calls[after:]); next != nil {
		n.Next, err = next.call()
	}
	return n, err
}

// latestOf and earliestOf are the call at an end of calls in their order; of those at one instant the one with the highest id.
func latestOf(calls []callRow) *callRow {
	if len(calls) == 0 {
		return nil
	}
	return &calls[len(calls)-1]
}

func earliestOf(calls []callRow) *callRow {
	for i := range calls {
		if i+1 == len(calls) || calls[i+1].startedAt != calls[i].startedAt {
			return &calls[i]
		}
	}
	return nil
}

// callRow is a row of a table by key, read as far as is needed to choose among rows.
type callRow struct {
	key       int   // in asked.keys
	startedAt int64 // milliseconds
	version   int64
	deleted   bool
	id        string
	rest      rowBinary
	found     *schemas.FoundCall // once it was asked for
}

// call is the call of the row.
func (r *callRow) call() (*schemas.FoundCall, error) {
	if r.found != nil {
		return r.found, nil
	}
	var both struct { // in one allocation
		call  schemas.FoundCall
		texts [6]string
	}
	both.call.ID, both.call.StartedAt = r.id, time.UnixMilli(r.startedAt).UTC()
	rest := r.rest
	for i, to := range []**string{&both.call.MHID, &both.call.CallerNumber, &both.call.Campaign, &both.call.Source, &both.call.Medium, &both.call.Keyword} {
		if rest.byte() == 0 {
			both.texts[i] = rest.text()
			*to = &both.texts[i]
		}
	}
	if rest.cut {
		return nil, errCutShort
	}
	r.found = &both.call
	return r.found, nil
}

// callColumns is what the tables by key have of a call beside its id, time and version, in the order in which their rows hold it.
var callColumns = []string{"mhid", "caller_number", "campaign", "source", "medium", "keyword"}

// read reads a row of a table as its column call holds it: tenant, key, started_at, version, is_deleted, id, then callColumns. ok is false for
// the row of a key that was not asked for, as one of the same hash is.
func (a *asked) read(table int, text string) (r callRow, ok bool, err error) {
	row := rowBinary{left: text}
	row.text()
	row.text()
	r.key, ok = a.at[table][text[:len(text)-len(row.left)]]
	r.startedAt, r.version, r.deleted, r.id = row.int64(), row.int64(), row.byte() != 0, row.text()
	r.rest = row
	if row.cut {
		return r, false, errCutShort
	}
	return r, ok, nil
}

// rowBinary is what is left to read of a text in ClickHouse's format of that name. What lies beyond its end is empty, and sets cut.
type rowBinary struct {
	left string
	cut  bool
}

var errCutShort = errors.New("a row ends before its last column")

func (b *rowBinary) bytes(n uint64) string {
	if n > uint64(len(b.left)) {
		b.left, b.cut = "", true
		return ""
	}
	bytes := b.left[:n]
	b.left = b.left[n:]
	return bytes
}

func (b *rowBinary) byte() byte {
	if one := b.bytes(1); one != "" {
		return one[0]
	}
	return 0
}

func (b *rowBinary) int64() int64 {
	var n uint64
	for i, c := range []byte(b.bytes(8)) {
		n |= uint64(c) << (8 * i)
	}
	return int64(n)
}

func (b *rowBinary) text() string {
	var n uint64
	for shift := 0; ; shift += 7 {
		c := b.byte()
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return b.bytes(n)
		}
	}
}

// beginning is what the rows of a key begin with.
func beginning(tenant, key string) string {
	b := make([]byte, 0, len(tenant)+len(key)+2*binary.MaxVarintLen16)
	b = append(binary.AppendUvarint(b, uint64(len(tenant))), tenant...)
	b = append(binary.AppendUvarint(b, uint64(len(key))), key...)
	return string(b)
}

func (c *Conn) findOnShard(ctx context.Context, shard int, a *asked) (found []callRow, err error) {
	err = c.onShard(shard, func(conn driver.Conn) error {
		for _, table := range callTables {
			if err := c.syncReplica(ctx, shard, conn, table); err != nil {
				return err
			}
		}
		var err error
		if found, err = c.findTogether(ctx, conn, a, nil, min(findRows, fewRows+fewRowsOfKey*len(a.keys))); tooHeavy(err) {
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

// Limits of the query for all keys. The rows that it finds are held here until all are there, some 200 bytes each.
const (
	findMemory  = 1 << 30
	findSeconds = 20 // less than matching waits
	foundRows   = 1_000_000
)

// Limits of what is read, variables for the tests. Beyond the first two it is worth while to look for hot keys before anything is read.
var (
	fewRows      = 200_000
	fewRowsOfKey = 512 // a granule of each of sixteen parts
	findRows     = 50_000_000
)

// keyTable is a table with the keys of one table that are asked for, but for those that are left out. Its name is that of the other with a
// prefix.
func (a *asked) keyTable(table int, except []bool) (keys *ext.Table, rows int, err error) {
	if keys, err = ext.NewTable("asked_"+callTables[table], ext.Column("tenant", "String"), ext.Column("key", "String")); err != nil {
		return nil, 0, err
	}
	for i := range a.keys {
		if k := &a.keys[i]; k.table == table && (except == nil || !except[i]) {
			rows++
			if err := keys.Append(k.tenant, k.key); err != nil {
				return nil, 0, err
			}
		}
	}
	return keys, rows, nil
}

// findTogether finds the calls of all keys but those that are left out; it reads so many rows at most.
//
// The tables are ordered by a hash of tenant and key, because a number is compared in a tenth of the time of a text, and there are thousands of
// keys to be found in the index. PREWHERE would read each granule in two goes, to save nothing: it is there because it has the key.
func (c *Conn) findTogether(ctx context.Context, conn driver.Conn, a *asked, except []bool, most int) ([]callRow, error) {
	var selects []string
	var tables []*ext.Table
	for table, name := range callTables {
		keys, rows, err := a.keyTable(table, except)
		if err != nil {
			return nil, err
		}
		if rows == 0 {
			continue
		}
		tables = append(tables, keys)
		selects = append(selects, fmt.Sprintf("SELECT %d, call FROM %s WHERE hash IN (SELECT sipHash64(tenant, key) FROM %s)", table, c.local(name), keys.Name()))
	}
	if len(selects) == 0 {
		return nil, nil
	}
	// In the text, because the driver puts the context's time in the place of a setting.
	sql := fmt.Sprintf("SELECT * FROM (%s) SETTINGS optimize_move_to_prewhere = 0, max_memory_usage = %d, max_rows_to_read = %d, max_result_rows = %d, max_execution_time = %d",
		strings.Join(selects, " UNION ALL "), findMemory, most, foundRows, findSeconds)
	rows, err := conn.Query(ch.Context(ctx, ch.WithExternalTable(tables...)), sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []callRow
	var table uint8
	var text string
	to := []any{&table, &text}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		r, ok, err := a.read(int(table), text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", callTables[table], err)
		}
		if ok {
			found = append(found, r)
		}
	}
	return found, rows.Err()
}

// hotRows is how many rows of a key are too many to look at all of them. A variable for the tests.
var hotRows = 20_000

// hotKeys finds the keys with very many rows; nil where none has.
func (c *Conn) hotKeys(ctx context.Context, conn driver.Conn, a *asked) (hot []bool, err error) {
	for table, name := range callTables {
		keys, n, err := a.keyTable(table, nil)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		rows, err := conn.Query(ch.Context(ctx, ch.WithExternalTable(keys)), "SELECT tenant, key FROM "+keys.Name()+" WHERE sipHash64(tenant, key) IN (SELECT hash FROM "+c.local(name)+
			" WHERE hash IN (SELECT sipHash64(tenant, key) FROM "+keys.Name()+") GROUP BY hash HAVING count() > ?)", hotRows)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var tenant, key string
			if err := rows.Scan(&tenant, &key); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			if hot == nil {
				hot = make([]bool, len(a.keys))
			}
			hot[a.at[table][beginning(tenant, key)]] = true
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	return hot, nil
}

// findEach adds the calls of hot keys to what was found: those on both sides of each Until. The tables have the calls of a key in the order of
// time, so that these are read and few others: some milliseconds for each, however many calls the key has.
func (c *Conn) findEach(ctx context.Context, conn driver.Conn, a *asked, hot []bool, found []callRow) ([]callRow, error) {
	for i := range hot {
		if !hot[i] {
			continue
		}
		untils := slices.Clone(a.keys[i].untils)
		slices.Sort(untils)
		for _, until := range slices.Compact(untils) {
			for _, latest := range []bool{true, false} {
				call, err := c.findEdge(ctx, conn, a, i, until, latest)
				if err != nil {
					return nil, err
				}
				if call != nil {
					found = append(found, *call)
				}
			}
		}
	}
	return found, nil
}

// findEdge finds the latest call of a key before an instant, or the earliest after it. It reads rows from there until it has a call that is not
// deleted, more of them each time.
func (c *Conn) findEdge(ctx context.Context, conn driver.Conn, a *asked, key int, until int64, latest bool) (*callRow, error) {
	k := &a.keys[key]
	begin, end, order := until, maxInstant.UnixMilli(), ""
	if latest {
		begin, end, order = minInstant.UnixMilli(), until-1, " DESC"
	}
	sql := "SELECT toUnixTimestamp64Milli(started_at), call FROM " + c.local(callTables[k.table]) + " WHERE hash = sipHash64(?, ?)" +
		" AND started_at BETWEEN fromUnixTimestamp64Milli(toInt64(?), 'UTC') AND fromUnixTimestamp64Milli(toInt64(?), 'UTC') ORDER BY started_at" + order + " LIMIT ?"
	for limit := edgeRows; ; limit *= 4 {
		rows, err := conn.Query(ctx, sql, k.tenant, k.key, begin, end, limit)
		if err != nil {
			return nil, err
		}
		var some []callRow
		n, furthest := 0, int64(0)
		for rows.Next() {
			var text string
			if err := rows.Scan(&furthest, &text); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			n++
			r, ok, err := a.read(k.table, text)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", callTables[k.table], err), rows.Close())
			}
			if ok && r.key == key {
				some = append(some, r)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
		// Of the last instant some rows may not have been read.
		if n == limit {
			some = slices.DeleteFunc(some, func(r callRow) bool { return r.startedAt == furthest })
		}
		edge := earliestOf
		if latest {
			edge = latestOf
		}
		if call := edge(lastVersions(some)); call != nil {
			return call, nil
		}
		if n < limit {
			return nil, nil
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
