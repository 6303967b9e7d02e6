package clickhouse

import (
	stdcmp "cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// committed waits until the sink has everything of a topic, as matching does before it asks for calls.
func (r *rig) committed(topic string) {
	r.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		ends, err := r.admin.ListEndOffsets(r.t.Context(), topic)
		must(r.t, err)
		commits, err := r.admin.FetchOffsetsForTopics(r.t.Context(), schemas.GroupSink, topic)
		must(r.t, err)
		behind := ""
		for partition, e := range ends[topic] {
			if c, ok := commits.Lookup(topic, partition); !ok || c.At < e.Offset {
				behind = fmt.Sprintf("%s/%d is committed up to %d of %d", topic, partition, c.At, e.Offset)
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(end) {
			r.t.Fatal(behind)
		}
	}
}

// fact is the record of a reference or fact of the tenant acme; v nil deletes it. Versions of facts go by the broker's time.
func (r *rig) fact(topic string, partition int32, at time.Time, id string, v any) *kgo.Record {
	rec := &kgo.Record{Topic: topic, Partition: partition, Timestamp: at, Key: schemas.ReferenceKey("acme", id), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}}
	if v != nil {
		rec.Value = r.encode(topic, v)
	}
	return rec
}

// slowNearest is what FindCalls says of one key, by looking at every call.
func slowNearest(calls map[string]*schemas.Call, until time.Time, has func(*schemas.Call) bool) (n schemas.Nearest) {
	for _, c := range calls {
		if !has(c) {
			continue
		}
		found := &schemas.FoundCall{ID: c.ID, StartedAt: c.StartedAt, MHID: c.MHID, CallerNumber: c.CallerNumber, Campaign: c.Campaign, Source: c.Source, Medium: c.Medium, Keyword: c.Keyword}
		if c.StartedAt.Before(until) {
			if l := n.Last; l == nil || c.StartedAt.After(l.StartedAt) || c.StartedAt.Equal(l.StartedAt) && c.ID > l.ID {
				n.Last = found
			}
		} else if l := n.Next; l == nil || c.StartedAt.Before(l.StartedAt) || c.StartedAt.Equal(l.StartedAt) && c.ID > l.ID {
			n.Next = found
		}
	}
	return n
}

// Whatever calls were sent, sent again with another number, MHID or time, and deleted, in whatever partition and by whichever of two copies
// of the sink: FindCalls finds what looking at every call finds.
func TestFindCallsAgreesWithASlowModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	r.start(nil)
	r.start(nil)

	spellings := []string{"07911 123456", "+44 7911 123456", "447911123456", "01632960001", "0044 1632 960001", "01632 960002", "+1 212 555 0100", "anonymous", ""}
	mhids := []string{"QX81LLP2", "qx81llp2", "M2", strings.Repeat("Ü", 200), ""}
	day := time.Date(2024, 2, 28, 0, 0, 0, 0, time.UTC)
	instant := func() time.Time { // few, so that many are equal, and many on the edge of a day
		return day.AddDate(0, 0, rng.IntN(4)).Add(time.Duration(rng.IntN(3)-1) * time.Millisecond)
	}
	maybe := func(from []string) *string {
		if rng.IntN(5) == 0 {
			return nil
		}
		return &from[rng.IntN(len(from))]
	}
	calls := map[string]*schemas.Call{}
	at := time.UnixMilli(1_700_000_000_000)
	for round := range 6 {
		var records []*kgo.Record
		for n := range 120 {
			at = at.Add(time.Millisecond)
			id := fmt.Sprint("c", rng.IntN(50))
			partition := rng.Int32N(partitions)
			if rng.IntN(6) == 0 {
				delete(calls, id)
				records = append(records, r.fact(schemas.Calls, partition, at, id, nil))
				continue
			}
			c := &schemas.Call{ID: id, StartedAt: instant(), CallerNumber: maybe(spellings), MHID: maybe(mhids), Campaign: new(fmt.Sprint(round, "/", n)),
				Source: maybe(mhids), Medium: maybe(mhids), Keyword: maybe(mhids), Tags: []string{}}
			if old := calls[id]; old != nil && rng.IntN(2) == 0 { // what is known of a call grows while it lasts
				c.StartedAt, c.CallerNumber, c.MHID = old.StartedAt, old.CallerNumber, old.MHID
			}
			calls[id] = c
			records = append(records, r.fact(schemas.Calls, partition, at, id, c))
		}
		r.produce(records...)
		r.committed(schemas.Calls)

		var queries []schemas.CallQuery
		var want []schemas.CallsFound
		for range 200 {
			q := schemas.CallQuery{Tenant: "acme", MHID: mhids[rng.IntN(len(mhids))], Until: day.AddDate(0, 0, rng.IntN(6)-1)}
			w := schemas.CallsFound{Numbers: []schemas.Nearest{}}
			if q.MHID != "" {
				w.MHID = slowNearest(calls, q.Until, func(c *schemas.Call) bool { return c.MHID != nil && *c.MHID == q.MHID })
			}
			for range rng.IntN(4) {
				key := schemas.PhoneKey(spellings[rng.IntN(len(spellings))])
				q.Numbers = append(q.Numbers, key)
				w.Numbers = append(w.Numbers, slowNearest(calls, q.Until, func(c *schemas.Call) bool {
					return key != "" && c.CallerNumber != nil && schemas.PhoneKey(*c.CallerNumber) == key
				}))
			}
			queries, want = append(queries, q), append(want, w)
		}
		// Another tenant has none of them.
		queries = append(queries, schemas.CallQuery{Tenant: "other", MHID: mhids[0], Numbers: []string{"447911123456"}, Until: day})
		want = append(want, schemas.CallsFound{Numbers: make([]schemas.Nearest, 1)})
		for _, way := range []struct {
			name           string
			few, hot, edge int
		}{{name: "together"}, {name: "each by itself", few: 1, hot: -1, edge: 1}} {
			got, err := findCallsWith(r.conn, t, queries, way.few, 0, way.hot, way.edge)
			must(t, err)
			for i := range want {
				if diff := cmp.Diff(want[i], got[i]); diff != "" {
					t.Fatalf("SEED=%d round %d, %s: %+v (-slow +FindCalls):\n%s", seed, round, way.name, queries[i], diff)
				}
			}
		}
		// The view has each call once, as it was sent last.
		var names []string
		for id, c := range calls {
			names = append(names, id+*c.Campaign)
		}
		slices.Sort(names)
		if got := r.query("SELECT toString(arraySort(groupArray(concat(id, campaign)))) = ? FROM {db}.calls", "['"+strings.Join(names, "','")+"']"); got != "1" {
			t.Fatalf("SEED=%d round %d: the view calls has other calls", seed, round)
		}
	}
}

// findCallsWith finds calls with other limits, where they are not 0; few is the whole limit of the first try.
func findCallsWith(conn *Conn, t *testing.T, queries []schemas.CallQuery, few, find, hot, edge int) ([]schemas.CallsFound, error) {
	defer func(few, of, find, hot, edge int) {
		fewRows, fewRowsOfKey, findRows, hotRows, edgeRows = few, of, find, hot, edge
	}(fewRows, fewRowsOfKey, findRows, hotRows, edgeRows)
	if few != 0 {
		fewRows, fewRowsOfKey = few, 0
	}
	findRows, hotRows, edgeRows = stdcmp.Or(find, findRows), stdcmp.Or(hot, hotRows), stdcmp.Or(edge, edgeRows)
	return conn.FindCalls(t.Context(), queries)
}

// A key with very many calls, as "unknown" is one, is found in little time; what is too much in any way is refused as that.
func TestFindCallsOfAHotKey(t *testing.T) {
	const calls, days = 2_000_000, 20
	conn := migrated(t)
	first := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for from, n := range map[string]int{"'unknown'": calls, "concat('M', toString(number))": 1000} {
		must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.local("calls_by_mhid_state")+" (tenant, id, version, is_deleted, mhid_key, started_at, mhid, campaign) SELECT 'acme', toString(number), 1, 0, "+
			from+" AS mhid_key, toDateTime64('2024-01-01', 3, 'UTC') + number, mhid_key, 'a campaign' FROM numbers(?) SETTINGS max_insert_threads = 1", n))
	}
	var queries []schemas.CallQuery
	for day := range days {
		queries = append(queries, schemas.CallQuery{Tenant: "acme", MHID: "unknown", Until: first.AddDate(0, 0, day)})
	}
	for n := range 1000 { // those of other keys are found beside it
		queries = append(queries, schemas.CallQuery{Tenant: "acme", MHID: fmt.Sprint("M", n), Until: first.AddDate(0, 0, 1)})
	}
	begun := time.Now()
	got, err := conn.FindCalls(t.Context(), queries)
	must(t, err)
	t.Logf("%d days of a key with %d calls: %s", days, calls, time.Since(begun))
	for n, f := range got[days:] {
		if l := f.MHID.Last; l == nil || l.ID != strconv.Itoa(n) {
			t.Errorf("M%d: last %+v", n, l)
		}
	}
	for day, f := range got[:days] {
		if n := f.MHID.Next; n == nil || n.ID != strconv.Itoa(day*86400) {
			t.Errorf("day %d: next %+v", day, n)
		}
		if l := f.MHID.Last; (l == nil) != (day == 0) || l != nil && l.ID != strconv.Itoa(day*86400-1) {
			t.Errorf("day %d: last %+v", day, l)
		}
	}
	// All of them at once, with no key that has too many.
	if _, err := findCallsWith(conn, t, queries, 0, 1000, calls, 0); !errors.Is(err, schemas.ErrQueryTooHeavy) {
		t.Errorf("%v, want ErrQueryTooHeavy", err)
	}
	must(t, conn.any.Exec(t.Context(), "DROP TABLE "+conn.local("calls_by_mhid_state")+" SYNC"))
	if _, err := conn.FindCalls(t.Context(), queries); err == nil || errors.Is(err, schemas.ErrQueryTooHeavy) {
		t.Errorf("%v without a table, want another error than ErrQueryTooHeavy", err)
	}
}

// Keys of one hash are told apart.
func TestFindCallsOfOneHash(t *testing.T) {
	conn := migrated(t)
	at := time.Date(2024, 2, 28, 0, 0, 0, 0, time.UTC)
	for tenant, numbers := range map[string][]string{"acme": {"447911123456", "441632960001"}, "other": {"447911123456"}} {
		for _, number := range numbers {
			must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.local(callTables[byNumber])+" (hash, tenant, id, version, is_deleted, number_key, started_at) SETTINGS insert_allow_materialized_columns = 1 "+
				"SELECT sipHash64('acme', '447911123456'), ?, ?, 1, 0, ?, ?", tenant, tenant+"/"+number, number, at))
		}
	}
	queries := []schemas.CallQuery{
		{Tenant: "acme", Numbers: []string{"447911123456"}, Until: at}, {Tenant: "acme", Numbers: []string{"447911123456"}, Until: at.AddDate(0, 0, 1)},
	}
	call := &schemas.FoundCall{ID: "acme/447911123456", StartedAt: at}
	want := []schemas.CallsFound{{Numbers: []schemas.Nearest{{Next: call}}}, {Numbers: []schemas.Nearest{{Last: call}}}}
	for name, few := range map[string]int{"together": 0, "each by itself": 1} {
		got, err := findCallsWith(conn, t, queries, few, 0, -few, few)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A row that is not what it should be is an error that names the table, wherever it ends.
func TestReadACallRow(t *testing.T) {
	day := time.Date(2024, 2, 28, 0, 0, 0, 0, time.UTC)
	conn := migrated(t)
	must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.local(callTables[byMHID])+" (tenant, id, version, is_deleted, mhid_key, started_at, mhid, caller_number, campaign, keyword) "+
		"SELECT 'acme', 'c1', -5, 1, 'M1', ?, 'M1', '', 'Spring', repeat('k', 300)", day.Add(-time.Hour)))
	var text string
	must(t, conn.any.QueryRow(t.Context(), "SELECT call FROM "+conn.local(callTables[byMHID])).Scan(&text))
	a, err := newAsked([]schemas.CallQuery{{Tenant: "acme", Numbers: []string{"1"}, Until: day}, {Tenant: "acme", MHID: "M1", Until: day}})
	must(t, err)
	r, ok, err := a.read(byMHID, text)
	must(t, err)
	if !ok || a.keys[r.key].key != "M1" || r.version != -5 || !r.deleted {
		t.Errorf("read %+v, %t", r, ok)
	}
	got, err := r.call()
	must(t, err)
	want := &schemas.FoundCall{ID: "c1", StartedAt: day.Add(-time.Hour), MHID: new("M1"), CallerNumber: new(""), Campaign: new("Spring"), Keyword: new(strings.Repeat("k", 300))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for n := range text {
		if r, _, err := a.read(byMHID, text[:n]); err == nil {
			if call, err := r.call(); err == nil {
				t.Fatalf("of %d bytes %d are read as %+v", len(text), n, call)
			}
		}
	}
	if _, _, err := a.read(byMHID, strings.Repeat("\xff", 100)); err == nil {
		t.Error("a length beyond all texts is read")
	}
}

func TestFindCallsOfNothing(t *testing.T) {
	conn := migrated(t)
	day := time.Date(2024, 2, 28, 0, 0, 0, 0, time.UTC)
	got, err := conn.FindCalls(t.Context(), []schemas.CallQuery{{Tenant: "acme", Until: day}, {Tenant: "acme", Numbers: []string{""}, Until: day}})
	must(t, err)
	if diff := cmp.Diff([]schemas.CallsFound{{Numbers: []schemas.Nearest{}}, {Numbers: make([]schemas.Nearest, 1)}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := conn.FindCalls(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("of no query: %v, %v", got, err)
	}
	if _, err := conn.FindCalls(t.Context(), []schemas.CallQuery{{Tenant: "acme", MHID: "M", Until: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}}); err == nil {
		t.Error("a day out of range is not refused")
	}
}

// A round of 10,000 sales among BENCH_CALLS calls (default 1,000,000) of a tenth as many numbers and a third as many MHIDs: how long finding
// their calls takes, and what ClickHouse's processors had to do for each sale. The calls come in inserts of half a million, or a twentieth of all, into
// the tables by key, and are merged as they are when they are a day old; today's, as many as one insert at most, come in four. The first rounds are not
// counted: they read the index into memory.
func BenchmarkFindCalls(b *testing.B) {
	calls := 1_000_000
	if text := os.Getenv("BENCH_CALLS"); text != "" {
		var err error
		calls, err = strconv.Atoi(text)
		must(b, err)
	}
	conn := migrated(b)
	const sales = 10_000
	block := max(500_000, calls/20)
	numbers, mhids := max(1, calls/10), max(1, calls/3)
	insert := func(from, n int) {
		for _, t := range []struct{ table, key string }{{callTables[byNumber], "number_key"}, {callTables[byMHID], "mhid_key"}} {
			must(b, conn.any.Exec(b.Context(), fmt.Sprintf(`INSERT INTO %s (tenant, is_deleted, version, %s, started_at, id, mhid, caller_number, campaign, source, medium, keyword)
SELECT 'acme', 0, number, %[2]s, fromUnixTimestamp64Milli(toInt64(1500000000000 + sipHash64(number, 1) %% 200000000000), 'UTC') AS started_at, lower(hex(sipHash64(number))) AS id,
    mhid_key AS mhid, concat('0', substring(number_key, 3)) AS caller_number, concat('Campaign ', toString(number %% 100)), 'google', 'cpc', concat('keyword ', toString(number %% 1000))
FROM (SELECT number, toString(447000000000 + sipHash64(number, 2) %% %d) AS number_key, concat('M', toString(sipHash64(number, 3) %% %d)) AS mhid_key FROM numbers(%d, %d))
SETTINGS max_insert_threads = 1`, conn.table(t.table), t.key, numbers, mhids, from, n)))
		}
	}
	count := func() (merges, parts uint64) {
		must(b, conn.any.QueryRow(b.Context(), "SELECT (SELECT count() FROM system.merges WHERE database = ?), (SELECT count() FROM system.parts WHERE database = ? AND active AND startsWith(table, 'calls_by'))",
			conn.cfg.Database, conn.cfg.Database).Scan(&merges, &parts))
		return merges, parts
	}
	today := min(block, calls/4)
	old := calls - today
	for from := 0; from < old; from += block {
		insert(from, min(block, old-from))
	}
	aged := func(seconds int) {
		for _, table := range callTables {
			must(b, conn.any.Exec(b.Context(), fmt.Sprintf("ALTER TABLE %s MODIFY SETTING min_age_to_force_merge_seconds = %d", conn.table(table), seconds)))
		}
	}
	aged(1)
	for end := time.Now().Add(30 * time.Minute); ; time.Sleep(time.Second) {
		merges, parts := count()
		if merges == 0 && parts <= uint64(len(callTables)) {
			break
		}
		if time.Now().After(end) {
			b.Fatalf("old parts were not merged in time: %d parts, %d merges", parts, merges)
		}
	}
	aged(86400)
	for n := range 4 {
		insert(old+n*today/4, today/4)
	}
	_, parts := count()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, shape := range []struct {
		name  string
		mhids bool
	}{{"numbers", false}, {"numbers and MHIDs", true}} {
		b.Run(fmt.Sprintf("calls=%d/%s", calls, shape.name), func(b *testing.B) {
			var took []time.Duration
			var cpu int64
			ctx := ch.Context(b.Context(), ch.WithProfileEvents(func(events []ch.ProfileEvent) {
				for _, e := range events {
					if e.Name == "OSCPUVirtualTimeMicroseconds" {
						cpu += e.Value
					}
				}
			}))
			round := func() []schemas.CallQuery {
				queries := make([]schemas.CallQuery, sales)
				for i := range queries {
					q := &queries[i]
					q.Tenant, q.Until = "acme", time.UnixMilli(1_500_000_000_000+rng.Int64N(200_000_000_000)).Truncate(24*time.Hour)
					q.Numbers = []string{strconv.Itoa(447_000_000_000 + rng.IntN(numbers))}
					if shape.mhids {
						q.MHID = fmt.Sprint("M", rng.IntN(mhids))
					}
				}
				return queries
			}
			for n := range 20 {
				start := time.Now()
				_, err := conn.FindCalls(ctx, round())
				b.Logf("round %d before the count: %s %v", n+1, time.Since(start).Round(time.Millisecond), err)
			}
			cpu = 0
			for b.Loop() {
				queries := round()
				start := time.Now()
				got, err := conn.FindCalls(ctx, queries)
				must(b, err)
				took = append(took, time.Since(start))
				found := 0
				for i := range got {
					if n := got[i].Numbers[0]; n.Last != nil || n.Next != nil {
						found++
					}
				}
				if found < sales*9/10 {
					b.Fatalf("only %d of %d numbers have calls", found, sales)
				}
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[0].Milliseconds()), "best-ms")
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "worst-ms")
			b.ReportMetric(float64(cpu)/float64(sales*len(took)), "clickhouse-cpu-µs/sale")
			b.ReportMetric(float64(parts)/2, "parts/table")
		})
	}
}
