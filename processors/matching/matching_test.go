package matching

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/ruletest"
)

func TestRules(t *testing.T) {
	ruletest.Run(t, "testdata/*.txt", func() ruletest.World { return &world{} })
}

// world holds the calls of one tenant and judges as the engine does: a sale is checked, then asked for, then decided.
type world struct{ calls []*schemas.Call }

func (w *world) Row(table string) any {
	if table != schemas.Calls {
		return nil
	}
	return &schemas.Call{}
}

func (w *world) Load(row any) { w.calls = append(w.calls, row.(*schemas.Call)) }

func (w *world) Item(typ string) any {
	if typ != "sale" {
		return nil
	}
	return &schemas.Sale{}
}

func (w *world) Judge(item any) (any, []schemas.Reason) {
	it := item.(*schemas.Sale)
	if reasons := Check(it); len(reasons) > 0 {
		return nil, reasons
	}
	q := Query("demo", it)
	found := w.find(&q)
	res, candidates, reasons := Decide(it, &q, &found)
	if len(reasons) > 0 {
		return &schemas.UnmatchedSale{SaleKey: SaleKey(it, "item-1"), Candidates: candidates}, reasons
	}
	res.SaleKey = SaleKey(it, "item-1")
	return &res, nil
}

// find is what ClickHouse answers.
func (w *world) find(q *schemas.CallQuery) schemas.CallsFound {
	nearest := func(shares func(*schemas.Call) bool) (n schemas.Nearest) {
		for _, c := range w.calls {
			found := &schemas.FoundCall{ID: c.ID, StartedAt: c.StartedAt, MHID: c.MHID, CallerNumber: c.CallerNumber,
				Campaign: c.Campaign, Source: c.Source, Medium: c.Medium, Keyword: c.Keyword}
			switch {
			case !shares(c):
			case c.StartedAt.Before(q.Until):
				if n.Last == nil || later(found, n.Last) {
					n.Last = found
				}
			case n.Next == nil || cmp.Or(c.StartedAt.Compare(n.Next.StartedAt), -strings.Compare(c.ID, n.Next.ID)) < 0:
				n.Next = found
			}
		}
		return n
	}
	var found schemas.CallsFound
	if q.MHID != "" {
		found.MHID = nearest(func(c *schemas.Call) bool { return c.MHID != nil && *c.MHID == q.MHID })
	}
	for _, number := range q.Numbers {
		found.Numbers = append(found.Numbers, nearest(func(c *schemas.Call) bool {
			return c.CallerNumber != nil && schemas.PhoneKey(*c.CallerNumber) == number
		}))
	}
	return found
}

// looked is what the contract read aloud says about one call and one sale.
type looked struct {
	call *schemas.Call
	rule string // that it would match by; empty: they share nothing
	both bool   // they share the MHID and a number
	side string // empty: in the window
	far  time.Duration
}

// model holds a sale against every call. Days are counted, not computed: the window goes back one month after the other and lowers the day
// until it exists.
func (w *world) model(it *schemas.Sale) []looked {
	year, month, day := it.Date.Date()
	for range *it.Lookback {
		if month--; month < time.January {
			year, month = year-1, time.December
		}
	}
	from := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	for from.Month() != month {
		day--
		from = time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	until := it.Date.Add(24 * time.Hour)
	var all []looked
	for _, c := range w.calls {
		l := looked{call: c}
		if c.CallerNumber != nil && slices.ContainsFunc(*it.CLIs, func(cli string) bool {
			key := schemas.PhoneKey(cli)
			return key != "" && key == schemas.PhoneKey(*c.CallerNumber)
		}) {
			l.rule = schemas.RuleCLI
		}
		if c.MHID != nil && *c.MHID != "" && *c.MHID == *it.MHID {
			l.rule, l.both = schemas.RuleMHID, l.rule != ""
		}
		if c.StartedAt.Before(from) {
			l.side, l.far = schemas.RuledOutBeforeWindow, from.Sub(c.StartedAt)
		} else if !c.StartedAt.Before(until) {
			l.side, l.far = schemas.RuledOutAfterSale, c.StartedAt.Sub(until)
		}
		if l.rule != "" {
			all = append(all, l)
		}
	}
	return all
}

func TestDecisionsEqualTheModel(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := &world{}
		sales := make([]*schemas.Sale, 20)
		for i := range sales {
			sales[i] = randomSale(r)
		}
		for i := range r.IntN(30) {
			w.calls = append(w.calls, randomCall(r, i, sales[r.IntN(len(sales))]))
		}
		for _, it := range sales {
			outcomes[w.compare(t, seed, it)]++
			if t.Failed() {
				return
			}
		}
	}
	for _, o := range []string{schemas.RuleMHID, schemas.RuleCLI, schemas.RuledOutBeforeWindow, schemas.RuledOutAfterSale, "nothing"} {
		if outcomes[o] < 100 {
			t.Errorf("%d sales ended in %s: the test shows little (%v)", outcomes[o], o, outcomes)
		}
	}
}

// compare returns how the sale ended.
func (w *world) compare(t *testing.T, seed uint64, it *schemas.Sale) string {
	t.Helper()
	got, reasons := w.Judge(it)
	shared := w.model(it)
	within := slices.DeleteFunc(slices.Clone(shared), func(l looked) bool { return l.side != "" })
	if len(within) > 0 {
		// The best is last: MHID over number, then time, then id.
		slices.SortFunc(within, func(a, b looked) int {
			return cmp.Or(cmp.Compare(a.rule, b.rule), a.call.StartedAt.Compare(b.call.StartedAt), cmp.Compare(a.call.ID, b.call.ID))
		})
		best := within[len(within)-1]
		want := schemas.SaleResult{
			SaleKey: *it.ID, Rule: best.rule, CallID: best.call.ID, CallStartedAt: best.call.StartedAt,
			CallMHID: best.call.MHID, CallCallerNumber: best.call.CallerNumber, Campaign: best.call.Campaign,
		}
		if diff := gocmp.Diff(&want, got); diff != "" || reasons != nil {
			t.Fatalf("seed %d, sale %s: reasons %v (-model +got)\n%s", seed, show(it), reasons, diff)
		}
		return best.rule
	}
	if len(reasons) != 1 || reasons[0].Code != schemas.CodeNoMatch {
		t.Fatalf("seed %d, sale %s: %+v, want no_match", seed, show(it), got)
	}
	ruletest.CheckReasons(t, reasons)
	candidates := got.(*schemas.UnmatchedSale).Candidates
	if len(shared) == 0 {
		if len(candidates) > 0 {
			t.Fatalf("seed %d, sale %s: candidates %+v share nothing with it", seed, show(it), candidates)
		}
		return "nothing"
	}
	far := func(id string) looked {
		return shared[slices.IndexFunc(shared, func(l looked) bool { return l.call.ID == id })]
	}
	seen := map[string]bool{}
	for i, c := range candidates {
		l := far(c.CallID)
		if l.rule != c.Rule && !l.both || l.side != c.RuledOut || !l.call.StartedAt.Equal(c.StartedAt) || seen[c.CallID] {
			t.Fatalf("seed %d, sale %s: candidate %+v, the model says %+v", seed, show(it), c, l)
		}
		if seen[c.CallID] = true; i > 0 && far(candidates[i-1].CallID).far > l.far {
			t.Fatalf("seed %d, sale %s: candidate %d is nearer than the one before it", seed, show(it), i)
		}
	}
	nearest := slices.MinFunc(shared, func(a, b looked) int { return cmp.Compare(a.far, b.far) })
	if len(candidates) == 0 || len(candidates) > MaxCandidates || far(candidates[0].CallID).far != nearest.far {
		t.Fatalf("seed %d, sale %s: candidates %+v, but %s is the nearest", seed, show(it), candidates, nearest.call.ID)
	}
	return nearest.side
}

func show(it *schemas.Sale) string {
	return fmt.Sprintf("of %s, %d months, mhid %q, clis %q", it.Date.Format(time.DateOnly), *it.Lookback, *it.MHID, *it.CLIs)
}

var (
	mhids   = []string{"", "M1", "M2", "m1"}
	numbers = []string{"07700900001", "+44 7700 900001", "447700900002", "01632 960003", "0044 1632 960003", "anonymous", "", "+1 415 555 2671"}
	days    = []time.Time{
		day(2024, 2, 29), day(2024, 3, 31), day(2023, 8, 31), day(2024, 8, 31), day(2023, 2, 28), day(2020, 2, 29), day(2023, 12, 31),
		day(2024, 1, 1), day(2024, 1, 30), day(2100, 3, 1), day(2000, 2, 29), day(2023, 5, 31),
	}
)

func day(year int, month time.Month, d int) time.Time {
	return time.Date(year, month, d, 0, 0, 0, 0, time.UTC)
}

func randomSale(r *rand.Rand) *schemas.Sale {
	it := &schemas.Sale{ID: new("S"), MHID: oneOf(r, mhids), CLIs: &[]string{}, Lookback: new(int32(1 + r.IntN(MaxLookback)))}
	it.Date = new(*oneOf(r, days))
	if r.IntN(3) == 0 {
		it.Date = new(it.Date.AddDate(0, 0, r.IntN(60)))
	}
	if r.IntN(2) == 0 {
		it.Lookback = new(int32(1 + r.IntN(3)))
	}
	for range r.IntN(4) {
		*it.CLIs = append(*it.CLIs, *oneOf(r, numbers))
	}
	if *it.MHID == "" && len(*it.CLIs) == 0 {
		it.MHID = new("M1")
	}
	return it
}

// randomCall starts near an edge of a sale's window, or anywhere.
func randomCall(r *rand.Rand, i int, it *schemas.Sale) *schemas.Call {
	c := &schemas.Call{ID: fmt.Sprint("C", i), Campaign: new(fmt.Sprint("campaign ", i))}
	if r.IntN(2) == 0 {
		c.MHID = oneOf(r, mhids)
	}
	if r.IntN(4) > 0 {
		c.CallerNumber = oneOf(r, numbers)
	}
	edge := it.Date.AddDate(0, 0, 1)
	if r.IntN(2) == 0 {
		edge = it.Date.AddDate(0, -int(*it.Lookback), r.IntN(3)-1)
	}
	c.StartedAt = edge.Add(*oneOf(r, []time.Duration{-time.Millisecond, 0, time.Millisecond, -24 * time.Hour, 24 * time.Hour, -90 * time.Minute}))
	if r.IntN(4) == 0 {
		c.StartedAt = edge.Add(time.Duration(r.IntN(20_000)-10_000) * time.Hour)
	}
	return c
}

func oneOf[T any](r *rand.Rand, values []T) *T { return new(values[r.IntN(len(values))]) }

func TestCandidatesAreTheNearestTen(t *testing.T) {
	w := &world{}
	it := &schemas.Sale{Date: new(day(2024, 2, 29)), MHID: new("M"), CLIs: &[]string{}, Lookback: new(int32(1))}
	for i := range 20 {
		number := fmt.Sprintf("077009000%02d", i)
		*it.CLIs = append(*it.CLIs, number)
		w.calls = append(w.calls, &schemas.Call{ID: fmt.Sprintf("C%02d", i), CallerNumber: &number, StartedAt: day(2024, 3, 1).Add(time.Duration(20-i) * time.Hour)})
	}
	got, _ := w.Judge(it)
	var ids []string
	for _, c := range got.(*schemas.UnmatchedSale).Candidates {
		ids = append(ids, c.CallID)
	}
	if want := strings.Fields("C19 C18 C17 C16 C15 C14 C13 C12 C11 C10"); !slices.Equal(ids, want) {
		t.Errorf("candidates %v, want %v", ids, want)
	}
}

func TestKeysOfDifferentSalesDiffer(t *testing.T) {
	sale := func(id string) *schemas.Sale { return &schemas.Sale{ID: &id} }
	key := func(tenant string, it *schemas.Sale, item string) string { return string(Key(tenant, it, item)) }
	if key("t", sale("a"), "1") != key("t", sale("a"), "2") {
		t.Error("a re-sent sale has another key")
	}
	if key("t", sale("a"), "1") == key("t", sale("A"), "1") || key("t", sale("a"), "1") == key("u", sale("a"), "1") || key("ta", sale("b"), "1") == key("t", sale("ab"), "1") {
		t.Error("different sales have one key")
	}
	if key("t", sale(""), "1") == key("t", sale(""), "2") || key("t", &schemas.Sale{}, "1") == key("t", &schemas.Sale{}, "2") {
		t.Error("sales without an id have one key")
	}
	if Ordered(sale("")) || Ordered(&schemas.Sale{}) || !Ordered(sale(" ")) {
		t.Error("only a sale with an id replaces another")
	}
}

// FuzzCheck feeds what any producer could send. Nothing may panic, reasons must be writable, and so must be what becomes of what passes.
func FuzzCheck(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	w := &world{}
	for i := range 20 {
		it := randomSale(r)
		w.calls = append(w.calls, randomCall(r, i, it))
		data, err := schemas.SaleSchema.Avro().AppendEncode(nil, it)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var it schemas.Sale
		if _, err := schemas.SaleSchema.Avro().Decode(data, &it); err != nil {
			t.Skip()
		}
		Key("demo", &it, "item")
		got, reasons := w.Judge(&it)
		if len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
		}
		var err error
		switch got := got.(type) {
		case *schemas.SaleResult:
			_, err = schemas.SaleProcessedSchema.Avro().AppendEncode(nil, &schemas.SaleProcessed{SaleResult: *got, Item: it})
		case *schemas.UnmatchedSale:
			got.Item = it
			_, err = schemas.UnprocessedSchema.Avro().AppendEncode(nil, &schemas.Unprocessed{Reasons: reasons, Sale: got})
		}
		if err != nil {
			t.Errorf("the outcome cannot be written: %v", err)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	it := &schemas.Sale{Date: new(day(2024, 2, 29)), MHID: new("QX81LLP2"), CLIs: &[]string{"447700900123", "01632960001"}, Lookback: new(int32(12))}
	call := &schemas.FoundCall{ID: "C1", StartedAt: day(2024, 1, 1)}
	found := &schemas.CallsFound{Numbers: []schemas.Nearest{{}, {Last: call}}}
	b.ReportAllocs()
	for b.Loop() {
		if len(Check(it)) > 0 {
			b.Fatal("defects")
		}
		q := Query("demo", it)
		Decide(it, &q, found)
	}
}
