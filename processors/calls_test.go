package processors

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
)

// callsTable stands in for ClickHouse: it finds the last call of an MHID that was inserted.
type callsTable struct {
	mu      sync.Mutex
	calls   map[string]*schemas.FoundCall // by MHID
	asked   int                           // questions, each for a whole round
	slow    int                           // more queries at once take for ever
	instead func(queries []schemas.CallQuery) ([]schemas.CallsFound, error)
}

func (c *callsTable) FindCalls(ctx context.Context, queries []schemas.CallQuery) ([]schemas.CallsFound, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.slow > 0 && len(queries) > c.slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if c.instead != nil {
		return c.instead(queries)
	}
	found := make([]schemas.CallsFound, len(queries))
	for i, q := range queries {
		found[i] = schemas.CallsFound{MHID: schemas.Nearest{Last: c.calls[q.MHID]}, Numbers: make([]schemas.Nearest, len(q.Numbers))}
	}
	return found, nil
}

func (c *callsTable) insert(call *schemas.Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[string]*schemas.FoundCall{}
	}
	c.calls[*call.MHID] = &schemas.FoundCall{ID: call.ID, StartedAt: call.StartedAt, MHID: call.MHID}
}

func (c *callsTable) setInstead(f func([]schemas.CallQuery) ([]schemas.CallsFound, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instead = f
}

// sinkCommits commits what the sink would have.
func (w *world) sinkCommits(positions map[int32]int64) {
	w.t.Helper()
	offsets := kadm.Offsets{}
	for p, at := range positions {
		offsets.Add(kadm.Offset{Topic: schemas.Calls, Partition: p, At: at, LeaderEpoch: -1})
	}
	w.eventually("commit of the sink", func() error { return w.admin.CommitAllOffsets(w.t.Context(), schemas.GroupSink, offsets) })
}

// sink follows the calls as the sink does: it inserts, a little late, and then commits.
func (w *world) sink(late time.Duration) {
	w.t.Helper()
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().At(0)
	}
	w.sinkCommits(map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0})
	cl := w.newClient(append(schemas.ConsumeCommitted(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{schemas.Calls: from}))...)
	ctx, stop := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	w.t.Cleanup(func() { stop(); ended.Wait() })
	decoder := schemas.NewDecoder[schemas.Call](w.schemas, schemas.CallSchema)
	ended.Go(func() {
		for ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			time.Sleep(late)
			positions := kadm.Offsets{}
			fetches.EachRecord(func(rec *kgo.Record) {
				call := &schemas.Call{}
				for !rec.Attrs.IsControl() && errors.Is(decoder.Decode(rec.Value, call), schemas.ErrSchemaPending) {
					time.Sleep(time.Millisecond)
				}
				if call.MHID != nil {
					w.calls.insert(call)
				}
				positions.Add(kadm.Offset{Topic: rec.Topic, Partition: rec.Partition, At: rec.Offset + 1, LeaderEpoch: -1})
			})
			_ = w.admin.CommitAllOffsets(ctx, schemas.GroupSink, positions) // the next commit says it again
		}
	})
}

var saleDay = time.Date(2023, 2, 28, 0, 0, 0, 0, time.UTC)

// call is a record of a call in the window of every sale here.
func (w *world) call(id string) *kgo.Record {
	call := &schemas.Call{ID: id, StartedAt: saleDay.Add(9 * time.Hour), MHID: &id, Tags: []string{}}
	return &kgo.Record{Topic: schemas.Calls, Key: schemas.ReferenceKey(tenant, id), Value: w.encode(schemas.Calls, call), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}}
}

// sale is a record of a sale that is matched by its MHID; without an id it is nil.
func (w *world) sale(id *string, mhid string) *kgo.Record {
	it := &schemas.Sale{ID: id, Date: &saleDay, MHID: &mhid, CLIs: &[]string{}, Lookback: new(int32(12)), Properties: []schemas.SaleProperty{}}
	rec := &kgo.Record{Topic: schemas.KindSales, Value: w.encode(schemas.KindSales, it), Headers: bare()}
	if id != nil {
		rec.Partition = schemas.Partition(matching.Key(tenant, it, ""), partitions)
	}
	return rec
}

// TestCausalityOfCalls: a call is acknowledged and a sale that it matches is sent at once, while the sink inserts it some time later. Some
// calls are committed only after that, as Kafka's late markers make it.
func TestCausalityOfCalls(t *testing.T) {
	w := newWorld(t)
	w.sink(15 * time.Millisecond)
	c := w.start(Matching, nil).ready()
	sales := w.newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	writer := w.newClient(kgo.TransactionalID("writer"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	pairs := count("CAUSAL_PAIRS", 200)
	for i := range pairs {
		mhid := fmt.Sprint("M", i)
		call := w.call(mhid)
		call.Partition = int32(i) % partitions
		transaction := i%10 == 0
		if transaction {
			if err := writer.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := writer.ProduceSync(t.Context(), call).FirstErr(); err != nil {
				t.Fatal(err)
			}
		} else {
			w.produce(call)
		}
		sale := w.sale(nil, mhid)
		sale.Partition = int32(i*7) % partitions
		if err := sales.ProduceSync(t.Context(), sale).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if transaction {
			time.Sleep(50 * time.Millisecond) // long enough for the sale to be judged, were it not to wait
			if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
				t.Fatal(err)
			}
		}
	}
	missed := 0
	for _, o := range w.awaitOutcomes(schemas.KindSales, pairs) {
		if !o.processed {
			missed++
		} else if o.sale.CallID != *o.sale.Item.MHID || o.sale.Rule != schemas.RuleMHID {
			t.Errorf("sale of %s is matched to %s by %s", *o.sale.Item.MHID, o.sale.CallID, o.sale.Rule)
		}
	}
	if missed > 0 {
		t.Errorf("%d of %d sales did not see the call that was acknowledged before them", missed, pairs)
	}
	if rounds, asked := counted(c.metrics.rounds.WithLabelValues("committed")), w.calls.asked; asked > int(rounds)+1 {
		t.Errorf("asked %d times in %v rounds", asked, rounds)
	}
}

// TestSalesWaitForTheSink: the sink's position counts, and nothing else: what ClickHouse happens to hold already may be half of it.
func TestSalesWaitForTheSink(t *testing.T) {
	w := newWorld(t)
	for p := range int32(3) { // the fourth partition never held a call
		call := w.call(fmt.Sprint("before-", p))
		call.Partition = p
		w.produce(call)
	}
	w.sinkCommits(map[int32]int64{0: 1, 1: 0}) // nothing of the third yet
	c := w.start(Matching, nil).ready()
	w.produce(w.sale(new("S"), "M"))
	waits := func(why string) {
		t.Helper()
		time.Sleep(200 * time.Millisecond)
		if n := c.sum(); n != 0 || w.calls.asked != 0 {
			t.Fatalf("%d outcomes, %d questions although %s", n, w.calls.asked, why)
		}
	}
	waits("two partitions are not inserted")
	w.sinkCommits(map[int32]int64{1: 1})
	waits("one partition has no position")
	later := w.call("later")
	w.produce(later) // was not there when the sale was polled: it may be seen, and is not waited for
	w.calls.insert(&schemas.Call{ID: "C", MHID: new("M"), StartedAt: saleDay})
	w.sinkCommits(map[int32]int64{2: 1})
	if o := w.awaitOutcomes(schemas.KindSales, 1)[0]; !o.processed {
		t.Errorf("unprocessed: %+v", o.unprocessed.Reasons)
	}
	if w.calls.asked != 1 {
		t.Errorf("asked %d times", w.calls.asked)
	}
}

// TestWaitingRoundGivesWay: while a round waits for the sink another copy joins; partitions move, and nothing is lost or doubled.
func TestWaitingRoundGivesWay(t *testing.T) {
	w := newWorld(t)
	w.produce(w.call("M"))
	w.sinkCommits(map[int32]int64{0: 0})
	first := w.start(Matching, nil).ready()
	var recs []*kgo.Record
	for i := range 100 {
		recs = append(recs, w.sale(new(fmt.Sprint("S", i)), "M"))
	}
	w.produce(recs...)
	time.Sleep(200 * time.Millisecond) // its round waits
	second := w.start(Matching, nil)
	owns := func(c *copyOf) int {
		c.Processor.mu.Lock()
		s := c.session
		c.Processor.mu.Unlock()
		if s == nil {
			return 0
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.lanes)
	}
	begun := time.Now()
	w.eventually("partitions are shared", func() error {
		if a, b := owns(first), owns(second); a != partitions/2 || b != partitions/2 {
			return fmt.Errorf("%d and %d", a, b)
		}
		return nil
	})
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("sharing took %s", took)
	}
	if n := len(w.outcomes(schemas.KindSales)); n != 0 {
		t.Errorf("%d outcomes before the sink had the call", n)
	}
	w.calls.insert(&schemas.Call{ID: "C", MHID: new("M"), StartedAt: saleDay})
	w.sinkCommits(map[int32]int64{0: 1})
	seen := map[string]bool{}
	for _, o := range w.awaitOutcomes(schemas.KindSales, 100) {
		if seen[o.ID] || !o.processed {
			t.Fatalf("second outcome, or unprocessed: %+v", o.Outcome)
		}
		seen[o.ID] = true
	}
}

// TestSalesAreJudgedInTheOrderOfTheirId: of sales of one id the one that was sent last has the highest version, wherever the records lay; a
// sale without an id stays where it lies and is itself.
func TestSalesAreJudgedInTheOrderOfTheirId(t *testing.T) {
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	w.calls.insert(&schemas.Call{ID: "C", MHID: new("M"), StartedAt: saleDay})
	c := w.start(Matching, nil).ready()
	const ids, times = 12, 10
	batch := schemas.NewBatchKey()
	var recs []*kgo.Record
	for i := range int32(ids * times) {
		mhid := "M"
		if i%3 == 0 {
			mhid = "nobody" // unmatched sales are sales all the same
		}
		rec := w.sale(new(fmt.Sprint("sale-", i%ids)), mhid)
		rec.Headers = envelope(schemas.Envelope{Batch: batch, Index: i, Reply: 1})
		recs = append(recs, rec)
	}
	misplaced := w.sale(new("misplaced"), "M")
	right := misplaced.Partition
	misplaced.Partition = (right + 1) % partitions
	nameless := w.sale(nil, "M")
	nameless.Partition = 2
	unmatched := w.sale(new(""), "nobody")
	unmatched.Partition = 3
	w.produce(append(recs, misplaced, nameless, unmatched)...)

	latest := map[string]int32{} // by sale key: index of the highest version
	versions := map[string]int64{}
	for _, o := range w.awaitOutcomes(schemas.KindSales, len(recs)+3) {
		key, version := "", int64(0)
		if o.processed {
			key, version = o.sale.SaleKey, o.sale.Version
		} else if u := o.unprocessed.Sale; u != nil && o.unprocessed.Reasons[0].Code == schemas.CodeNoMatch {
			key, version = u.SaleKey, u.Version
			if *u.Item.MHID != "nobody" || u.Item.Date == nil || !bytes.Contains(o.unprocessed.Original, []byte("nobody")) {
				t.Errorf("unmatched sale carries the item %+v", u.Item)
			}
		} else {
			t.Fatalf("unprocessed: %+v", o.unprocessed)
		}
		if want := schemas.Version(0, o.SourceOffset); version != want {
			t.Errorf("version %d, want %d", version, want)
		}
		if o.Batch != nil {
			if version >= versions[key] {
				latest[key], versions[key] = o.Index, version
			}
			continue
		}
		switch key {
		case "misplaced":
			if o.SourcePartition != right || o.ID != schemas.BareItemID(schemas.KindSales, 0, misplaced.Partition, misplaced.Offset) {
				t.Errorf("misplaced sale: %+v, want it judged in %d with the identity of its origin", o.Outcome, right)
			}
		case o.ID:
			if p := o.SourcePartition; p != 2 && p != 3 || o.processed != (p == 2) {
				t.Errorf("sale without an id: %+v, want it judged where it lay", o.Outcome)
			}
		default:
			t.Errorf("sale key %q", key)
		}
	}
	if len(latest) != ids {
		t.Errorf("%d sale keys: %v", len(latest), slices.Sorted(maps.Keys(latest)))
	}
	for key, index := range latest {
		if want := fmt.Sprint("sale-", index%ids); key != want || int(index) < ids*(times-1) {
			t.Errorf("the highest version of %s is item %d", key, index)
		}
	}
	if got := counted(c.metrics.forwarded.WithLabelValues(schemas.KindSales)); got != 1 {
		t.Errorf("forwarded_total %v, want 1", got)
	}
}

// TestCallsThatCannotBeFoundAreWaitedFor: errors and answers that do not fit the question judge nothing.
func TestCallsThatCannotBeFoundAreWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	answers := map[string]func([]schemas.CallQuery) ([]schemas.CallsFound, error){
		"error":     func([]schemas.CallQuery) ([]schemas.CallsFound, error) { return nil, errors.New("no connection") },
		"too short": func([]schemas.CallQuery) ([]schemas.CallsFound, error) { return []schemas.CallsFound{}, nil },
		"numbers without answers": func(q []schemas.CallQuery) ([]schemas.CallsFound, error) {
			return make([]schemas.CallsFound, len(q)), nil
		},
	}
	c := w.start(Matching, nil).ready()
	done := 0
	for name, instead := range answers {
		w.calls.setInstead(instead)
		before := counted(c.metrics.retries.WithLabelValues("find calls"))
		it := &schemas.Sale{Date: &saleDay, MHID: new("M"), CLIs: &[]string{"07700900123"}, Lookback: new(int32(1)), Properties: []schemas.SaleProperty{}}
		w.produce(&kgo.Record{Topic: schemas.KindSales, Value: w.encode(schemas.KindSales, it), Headers: bare()})
		w.eventually(name+": tried again", func() error {
			if n := counted(c.metrics.retries.WithLabelValues("find calls")) - before; n < 2 {
				return fmt.Errorf("%v retries", n)
			}
			return nil
		})
		if n := c.sum(); n != done {
			t.Errorf("%s: %d outcomes, want %d", name, n, done)
		}
		w.calls.setInstead(nil)
		done++
		w.awaitOutcomes(schemas.KindSales, done)
	}
	if got := c.sum(); got != len(answers) {
		t.Errorf("%d outcomes", got)
	}
}

// TestRoundsThatTakeTooLongGetSmaller: what ClickHouse does not find in time is asked in smaller parts, until it does.
func TestRoundsThatTakeTooLongGetSmaller(t *testing.T) {
	defer func(most time.Duration) { findMost = most }(findMost)
	findMost = 100 * time.Millisecond
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	w.calls.slow = 60
	w.calls.insert(&schemas.Call{ID: "C", MHID: new("M"), StartedAt: saleDay})
	var recs []*kgo.Record
	for i := range 500 {
		recs = append(recs, w.sale(new(fmt.Sprint("S", i)), "M"))
	}
	w.produce(recs...)
	c := w.start(Matching, nil)
	seen := map[string]bool{}
	for _, o := range w.awaitOutcomes(schemas.KindSales, len(recs)) {
		if seen[o.ID] || !o.processed {
			t.Fatalf("second outcome, or unprocessed: %+v", o.Outcome)
		}
		seen[o.ID] = true
	}
	if n := counted(c.metrics.rounds.WithLabelValues("aborted")); n == 0 {
		t.Error("no round was given up: the test shows nothing")
	}
}

// TestRoundsThatAreRefusedGetSmaller: what ClickHouse refuses as too much is asked in smaller parts, and of one sale that is too much by itself
// the outcome is a fault of ours; all others get theirs.
func TestRoundsThatAreRefusedGetSmaller(t *testing.T) {
	const sales = 300
	for name, c := range map[string]struct {
		tooHeavy func(queries []schemas.CallQuery) bool
		refused  int
	}{
		"many": {func(q []schemas.CallQuery) bool { return len(q) > 40 }, 0},
		"two of them": {func(q []schemas.CallQuery) bool {
			return slices.ContainsFunc(q, func(q schemas.CallQuery) bool { return q.MHID == "M77" || q.MHID == "M78" })
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
			w.calls.setInstead(func(q []schemas.CallQuery) ([]schemas.CallsFound, error) {
				if c.tooHeavy(q) {
					return nil, fmt.Errorf("find calls: %w: secret", schemas.ErrQueryTooHeavy)
				}
				found := make([]schemas.CallsFound, len(q))
				for i := range q {
					found[i].MHID.Last = &schemas.FoundCall{ID: q[i].MHID, StartedAt: saleDay}
				}
				return found, nil
			})
			var recs []*kgo.Record
			for i := range sales {
				recs = append(recs, w.sale(new(fmt.Sprint("S", i)), fmt.Sprint("M", i)))
			}
			w.produce(recs...)
			p := w.start(Matching, nil)
			seen := map[string]bool{}
			refused := 0
			for _, o := range w.awaitOutcomes(schemas.KindSales, sales) {
				if seen[o.ID] {
					t.Fatalf("second outcome: %+v", o.Outcome)
				}
				seen[o.ID] = true
				if !o.processed {
					refused++
					if r := o.unprocessed.Reasons; len(r) != 1 || r[0].Code != schemas.CodeInternalError || strings.Contains(r[0].Message, "secret") {
						t.Errorf("reasons %+v, want internal_error only", r)
					}
				}
			}
			if counter := int(counted(p.metrics.refused)); refused != c.refused || counter != refused {
				t.Errorf("%d sales are refused, the metric says %d, want %d", refused, counter, c.refused)
			}
		})
	}
}

// TestConnectionThatFailsIsNoRefusal: however long ClickHouse cannot be reached, no round is given up, and a refusal now and then is passed
// over.
func TestConnectionThatFailsIsNoRefusal(t *testing.T) {
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	w.calls.insert(&schemas.Call{ID: "C", MHID: new("M"), StartedAt: saleDay})
	asked := 0
	w.calls.setInstead(func([]schemas.CallQuery) ([]schemas.CallsFound, error) {
		if asked++; asked%mostRefusals == 0 {
			return nil, errors.New("no connection")
		}
		return nil, schemas.ErrQueryTooHeavy
	})
	w.produce(w.sale(new("S"), "M"))
	c := w.start(Matching, nil)
	w.eventually("tried again", func() error {
		if n := counted(c.metrics.retries.WithLabelValues("find calls")); n < 2*mostRefusals {
			return fmt.Errorf("%v retries", n)
		}
		return nil
	})
	w.calls.setInstead(nil)
	if o := w.awaitOutcomes(schemas.KindSales, 1)[0]; !o.processed {
		t.Errorf("unprocessed: %+v", o.unprocessed.Reasons)
	}
}

// sickSales judges sales but for those of two MHIDs.
type sickSales struct{ *saleJudge }

func (j sickSales) query(tenant string) schemas.CallQuery {
	if *j.value.MHID == "sick query" {
		panic("injected")
	}
	return j.saleJudge.query(tenant)
}

func (j sickSales) decide(it *item) verdict {
	v := j.saleJudge.decide(it)
	if *j.value.MHID == "sick decision" {
		panic("injected")
	}
	return v
}

// TestPanicCostsOneSale: in either of the two passes over a round.
func TestPanicCostsOneSale(t *testing.T) {
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	original := kindNamed(kinds, schemas.KindSales)
	sick := *original
	sick.newJudge = func(l *lane) judge { return sickSales{original.newJudge(l).(*saleJudge)} }
	c := w.startWith(Matching, nil, func(p *Processor) { p.kinds = []*kind{&sick} }).ready()
	mhids := []string{"a", "sick query", "b", "sick decision", "c"}
	var recs []*kgo.Record
	for _, mhid := range mhids {
		if w.calls.insert(&schemas.Call{ID: mhid, MHID: &mhid, StartedAt: saleDay}); mhid == "c" {
			recs = append(recs, w.sale(nil, "not there"))
		}
		recs = append(recs, w.sale(nil, mhid))
	}
	w.produce(recs...)
	outcomes := w.awaitOutcomes(schemas.KindSales, len(recs))
	slices.SortFunc(outcomes, func(a, b outcome) int { return cmp.Compare(a.SourceOffset, b.SourceOffset) })
	for i, o := range outcomes {
		switch i {
		case 1, 3:
			if o.processed || o.unprocessed.Reasons[0].Code != schemas.CodeInternalError || o.unprocessed.Sale != nil {
				t.Errorf("sale %d: %+v, want internal_error and no sale", i, o.unprocessed)
			}
		case 4:
			if o.processed || o.unprocessed.Reasons[0].Code != schemas.CodeNoMatch || o.unprocessed.Sale == nil {
				t.Errorf("sale %d: %+v, want no_match", i, o.unprocessed)
			}
		default:
			if !o.processed || o.sale.CallID != *o.sale.Item.MHID {
				t.Errorf("sale %d: %+v, want it matched to the call of its MHID", i, o)
			}
		}
	}
	if got := counted(c.metrics.panics); got != 2 {
		t.Errorf("panics_total %v, want 2", got)
	}
}

// TestBadSalesBesideGoodOnes: every record of a round keeps its own answer, whatever its neighbours are.
func TestBadSalesBesideGoodOnes(t *testing.T) {
	w := newWorld(t)
	w.sinkCommits(map[int32]int64{0: 0}) // there are no calls
	w.start(Matching, nil).ready()
	headers := bare()
	none := func(value []byte, h []kgo.RecordHeader) *kgo.Record {
		return &kgo.Record{Topic: schemas.KindSales, Value: value, Headers: h}
	}
	defects := none(w.encode(schemas.KindSales, &schemas.Sale{Properties: []schemas.SaleProperty{}}), headers)
	var recs []*kgo.Record
	good := 0
	for i := range 40 {
		mhid := fmt.Sprint("M", i)
		w.calls.insert(&schemas.Call{ID: mhid, MHID: &mhid, StartedAt: saleDay})
		switch i % 8 {
		case 1:
			recs = append(recs, none(nil, headers))
		case 2:
			recs = append(recs, none([]byte("no Avro"), headers))
		case 3:
			recs = append(recs, none(defects.Value, headers))
		case 4:
			recs = append(recs, none(w.sale(nil, mhid).Value, nil))
		case 5: // nobody has registered that schema: the partition waits for the second answer
			recs = append(recs, none([]byte{0, 0, 0, 0x27, byte(0x20 + i), 1}, headers))
		default:
			good++
			recs = append(recs, w.sale(nil, mhid))
		}
	}
	w.produce(recs...)
	for _, o := range w.awaitOutcomes(schemas.KindSales, good+5) {
		switch {
		case !o.processed && len(o.unprocessed.Reasons) == 3 && o.unprocessed.Sale == nil:
		case o.processed && o.sale.CallID == *o.sale.Item.MHID && o.sale.CallID == "M"+strconv.FormatInt(o.SourceOffset, 10):
		default:
			t.Errorf("offset %d: %+v", o.SourceOffset, o)
		}
	}
	if letters := w.read(schemas.DeadLetters); len(letters) != 20 {
		t.Errorf("%d dead letters, want 20", len(letters))
	}
}

// TestTransactionsAreJudgedByThemselves: they wait for nothing, and every one gets its outcome where its batch is awaited.
func TestTransactionsAreJudgedByThemselves(t *testing.T) {
	w := newWorld(t)
	w.start(Validation, nil).ready()
	batch := schemas.NewBatchKey()
	texts := []string{"A-1", "not\x00kept", ""}
	for i, text := range texts {
		w.produce(&kgo.Record{Topic: schemas.KindTransactions, Partition: 3, Value: w.encode(schemas.KindTransactions, &schemas.Transaction{TransactionID: &text}),
			Headers: envelope(schemas.Envelope{Batch: batch, Index: int32(i), Reply: 2})})
	}
	for _, o := range w.awaitOutcomes(schemas.KindTransactions, len(texts)) {
		if want := o.Index != 1; o.processed != want || o.rec.Partition != 2 || o.ID != schemas.ItemID(tenant, batch, o.Index) {
			t.Errorf("item %d: processed %t on partition %d, want %t on 2", o.Index, o.processed, o.rec.Partition, want)
		}
		if o.processed && *o.transaction.Item.TransactionID != texts[o.Index] {
			t.Errorf("item %d came back as %+v", o.Index, o.transaction.Item)
		}
	}
}
