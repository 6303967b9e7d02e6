package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// Keys of batches: ownership, sales (sent with an idempotency key, then once more), calls through the API.
const (
	batchKey    = "0123456789abcdef0123456789abcdef"
	saleBatch   = "1123456789abcdef0123456789abcdef"
	repeatBatch = "2123456789abcdef0123456789abcdef"
	callBatch   = "3123456789abcdef0123456789abcdef"
)

var noon = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// goodWorld is one batch of two changes of the same key, and a bare record that was forwarded; two sales of one id, of which the first is
// matched to a call, by a request that was sent twice; and a call that came through the API.
func goodWorld() *World {
	w := ownershipWorld()
	w.addSales()
	w.addCalls()
	w.addTransactions()
	w.addReplays()
	return w
}

// addReplays adds two replays of the second sale, of which one comes too late.
func (w *World) addReplays() {
	i := slices.IndexFunc(w.Items, func(it Item) bool { return it.Sale != nil && it.Index == 1 })
	for range 2 {
		again := w.Items[i]
		again.Offset, again.Attempt = int64(len(w.Items)), 2
		again.First = &schemas.First{ID: again.ID, Offset: w.Items[i].Offset}
		w.Items = append(w.Items, again)
	}
	o := w.Outcomes[slices.IndexFunc(w.Outcomes, func(o Outcome) bool { return o.Unmatched != nil })]
	o.Attempt, o.SourceOffset, o.Offset = 2, w.Items[len(w.Items)-2].Offset, 1
	w.Outcomes = append(w.Outcomes, o)
	for _, table := range []string{"unprocessed", "sales"} {
		w.Tables[table] = append(w.Tables[table], Row{o.Position, "t", o.ID, 2})
	}
	w.Attempts = map[string]schemas.Attempt{"sales/" + o.ID: {Attempt: 2}}
}

// header adds the header of a batch.
func (w *World) header(key string, items int32) {
	at := Position{"batches", 0, int64(len(w.Batches))}
	w.Batches = append(w.Batches, Batch{at, schemas.BatchHeader{Tenant: "t", Key: key, Items: items}})
	w.Tables["batches"] = append(w.Tables["batches"], Row{at, "t", key, 0})
}

func (w *World) addSales() {
	own := schemas.Partition([]byte("t\x00S"), 4)
	w.header(saleBatch, 2)
	day := noon.Truncate(24 * time.Hour)
	for i := range 2 {
		sale := &schemas.Sale{ID: new("S"), Date: &day, Value: new(fmt.Sprint(i)), MHID: new("M" + strings.Repeat("x", i)), CLIs: &[]string{}, Lookback: new(int32(1))}
		it := Item{
			Position: Position{"sales", own, int64(i)}, Kind: "sales", Tenant: "t", ID: schemas.ItemID("t", saleBatch, int32(i)), Batch: saleBatch, Index: int32(i), Attempt: 1,
			Marker: "m5", Appended: noon.Add(time.Second), Sale: sale,
		}
		w.Items = append(w.Items, it)
		o := Outcome{Position: Position{"sales.processed", own, 0}, Processed: i == 0}
		o.Outcome = schemas.Outcome{Tenant: "t", ID: it.ID, Batch: new(saleBatch), Index: int32(i), Attempt: 1, SourceTopic: "sales", SourcePartition: own, SourceOffset: int64(i)}
		if i == 0 {
			o.Sale = &schemas.SaleResult{SaleKey: "S", Version: 0, Rule: schemas.RuleMHID, CallID: "c1"}
		} else {
			o.Position.Topic = "sales.unprocessed"
			o.Unmatched = &schemas.UnmatchedSale{SaleKey: "S", Version: 1}
			w.Tables["unprocessed"] = append(w.Tables["unprocessed"], Row{o.Position, "t", it.ID, 1})
		}
		w.Outcomes = append(w.Outcomes, o)
		w.Tables["sales"] = append(w.Tables["sales"], Row{o.Position, "t", it.ID, 1})
	}
	w.Status[saleBatch] = StatusNow{schemas.BatchComplete, 1, 1}
	w.Sales = map[string]SaleNow{"t\x00S": {Version: 1, ID: schemas.ItemID("t", saleBatch, 1), Value: "1"}}
	key := schemas.RequestKey("t", "mediahawk sales", "k")
	at := schemas.Partition(key, 4)
	w.Requests = []Request{
		{Position{"requests", at, 0}, string(key), "hash", saleBatch}, {Position{"requests", at, 3}, string(key), "hash", repeatBatch},
		{Position{"requests", at, 6}, string(key), "another", callBatch + "x"},
	}
	for i, verdict := range []string{schemas.RequestAccepted, schemas.RequestRepeated, schemas.RequestConflict} {
		w.Answers = append(w.Answers, Answer{Position{"requests.answers", 0, int64(i)}, schemas.RequestAnswer{
			Tenant: "t", Batch: w.Requests[i].Batch, Verdict: verdict, First: saleBatch, Number: 2,
		}})
	}
	w.Remembered = map[string]schemas.Request{string(key): {Batch: saleBatch}}
}

func (w *World) addCalls() {
	w.header(callBatch, 1)
	call := func(partition int32, offset int64, id string, campaign string) Record {
		c := &schemas.Call{ID: id, StartedAt: noon.Add(-time.Hour), MHID: new("M"), Campaign: &campaign}
		return Record{
			Position: Position{"calls", partition, offset}, Tenant: "t", OwnID: id, ID: schemas.BareItemID("calls", 0, partition, offset),
			Appended: noon.Add(time.Duration(offset) * time.Minute), Text: factText(c), Call: c,
		}
	}
	first, changed, through := call(0, 0, "c1", "spring"), call(1, 1, "c1", "summer"), call(1, 2, "c2", "spring")
	first.Marker, changed.Marker = "m6", "m7"
	through.ID, through.Batch = "", callBatch
	gone := Record{Position: Position{"calls", 2, 0}, Tenant: "t", OwnID: "c3", ID: "gone", Appended: noon}
	w.Records = []Record{first, changed, through, gone}
	o := Outcome{Position: Position{"references.processed", 0, 0}, Processed: true, Marker: "m8"}
	o.Outcome = schemas.Outcome{Tenant: "t", ID: schemas.ItemID("t", callBatch, 0), Batch: new(callBatch), Attempt: 1, SourceTopic: "calls", SourcePartition: -1, SourceOffset: -1}
	o.Reference = &schemas.ReferenceProcessed{Outcome: o.Outcome, Kind: "calls", OwnID: "c2"}
	w.Outcomes = append(w.Outcomes, o)
	w.Status[callBatch] = StatusNow{schemas.BatchComplete, 1, 0}
	w.Tables["references"] = []Row{{o.Position, "t", o.ID, 1}}
	w.Facts = map[string]map[string]FactNow{"calls": {
		"t/c1": {schemas.FactVersion(changed.Appended, 1), changed.Text}, "t/c2": {schemas.FactVersion(through.Appended, 2), through.Text},
	}}
}

func (w *World) addTransactions() {
	w.Transactions = map[string]bool{}
	for i, id := range []string{"T", "T", ""} {
		it := Item{Position: Position{"transactions", 0, int64(i)}, Kind: "transactions", Tenant: "t", Attempt: 1, Transaction: &schemas.Transaction{TransactionID: &id}}
		it.ID, it.Marker = schemas.BareItemID("transactions", 0, 0, int64(i)), fmt.Sprint("m", 9+i)
		w.Items = append(w.Items, it)
		o := Outcome{Position: Position{"transactions.processed", 0, int64(i)}, Processed: true}
		o.Outcome = schemas.Outcome{Tenant: "t", ID: it.ID, Attempt: 1, SourceTopic: "transactions", SourceOffset: int64(i), AcceptedAt: noon}
		w.Outcomes = append(w.Outcomes, o)
		w.Tables["transactions"] = append(w.Tables["transactions"], Row{o.Position, "t", it.ID, 1})
		w.Transactions[it.ID] = i > 0
	}
	maps.DeleteFunc(w.Transactions, func(_ string, shown bool) bool { return !shown })
}

func ownershipWorld() *World {
	key := "t\x00u\x00s"
	own := schemas.Partition([]byte(key), 4)
	wrong := (own + 1) % 4
	change := &schemas.Ownership{UserName: new("U"), ProductSKU: new("S")}
	item := func(partition int32, offset int64) Item {
		return Item{Position: Position{"ownership", partition, offset}, Kind: "ownership", Tenant: "t", Attempt: 1, Ownership: change}
	}
	first, second, bare, copied := item(own, 0), item(own, 1), item(wrong, 5), item(own, 3)
	for i, it := range []*Item{&first, &second} {
		it.Batch, it.Index, it.ID, it.Marker = batchKey, int32(i), schemas.ItemID("t", batchKey, int32(i)), "m1"
	}
	bare.Misplaced, bare.ID, bare.Marker = true, schemas.BareItemID("ownership", 0, wrong, 5), "m2"
	copied.Origin, copied.ID, copied.Marker = &schemas.Origin{Partition: wrong, Offset: 5}, bare.ID, "m2"
	w := &World{
		Partitions: 4,
		Batches:    []Batch{{Position{"batches", 0, 0}, schemas.BatchHeader{Tenant: "t", Key: batchKey, Items: 2}}},
		State:      map[string]schemas.OwnershipState{key: {Quantity: 3, Version: 3}},
		Dead:       map[Position]bool{},
		Tables:     map[string][]Row{"batches": {{Position{"batches", 0, 0}, "t", batchKey, 0}}},
		Ownership:  map[string]int64{key: 3},
		Status:     map[string]StatusNow{batchKey: {schemas.BatchComplete, 2, 0}},
	}
	w.Items = []Item{first, second, copied, bare}
	for n, it := range []Item{first, second, copied} {
		at := Position{"ownership.processed", own, int64(n)}
		o := Outcome{Position: at, Processed: true}
		o.Outcome = schemas.Outcome{Tenant: "t", ID: it.ID, Attempt: 1, SourceTopic: "ownership", SourcePartition: it.Partition, SourceOffset: it.Offset}
		if it.Batch != "" {
			o.Batch, o.Index = &it.Batch, it.Index
		}
		o.Ownership = &schemas.OwnershipResult{PreviousQuantity: int64(n), Quantity: int64(n) + 1, Version: it.Offset}
		w.Outcomes = append(w.Outcomes, o)
		w.Tables["ownership"] = append(w.Tables["ownership"], Row{at, "t", it.ID, 1})
	}
	return w
}

var goodSent = []Sent{
	{Marker: "m1", Items: 2, Verdict: harness.Accepted},
	{Marker: "m2", Items: 1, Verdict: harness.Accepted},
	{Marker: "m3", Items: 4, Verdict: harness.Refused},
	{Marker: "m4", Items: 1, Verdict: harness.Unknown},
	{Marker: "m5", Items: 2, Verdict: harness.Accepted},
	{Marker: "m6", Items: 1, Verdict: harness.Accepted, Told: noon},
	{Marker: "m7", Items: 1, Verdict: harness.Accepted},
	{Marker: "m8", Items: 1, Verdict: harness.Accepted, Told: noon.Add(2 * time.Minute)},
	{Marker: "m9", Items: 1, Verdict: harness.Accepted},
	{Marker: "m10", Items: 1, Verdict: harness.Accepted},
	{Marker: "m11", Items: 1, Verdict: harness.Accepted},
}

func TestCheckerHasNothingToSayOfAGoodWorld(t *testing.T) {
	w := goodWorld()
	if found := w.Check(goodSent); len(found) > 0 {
		t.Error(strings.Join(found, "\n"))
	}
}

// A call that was made long before it came, as kfake's times have it, need not have been seen.
func TestCallsOfProducersTimesCameWhenTheirSendersKnew(t *testing.T) {
	for _, told := range []time.Time{{}, noon.Add(time.Hour)} {
		w := goodWorld()
		w.Records[0].Producers, w.Items[5].Sale.MHID = true, new("M")
		sent := slices.Clone(goodSent)
		sent[slices.IndexFunc(sent, func(s Sent) bool { return s.Marker == "m6" })].Told = told
		if found := strings.Join(w.Check(sent), "\n"); strings.Contains(found, "is unmatched at") {
			t.Errorf("told at %s: %s", told, found)
		}
	}
}

// Each broken promise is found by the check that is there for it.
func TestCheckerFindsWhatIsBroken(t *testing.T) {
	for _, c := range []struct {
		name, want string
		hurt       func(w *World)
	}{
		{"an item without outcome", "has no outcome", func(w *World) { w.Outcomes = w.Outcomes[:2] }},
		{"an item judged twice", "has two outcomes", func(w *World) { w.Outcomes = append(w.Outcomes, w.Outcomes[0]) }},
		{"a replay without outcome", "attempt 2) has no outcome", func(w *World) { w.Outcomes = w.Outcomes[:len(w.Outcomes)-1] }},
		{"a replay judged twice", "has two outcomes of attempt 2", func(w *World) {
			o := w.Outcomes[len(w.Outcomes)-1]
			o.SourceOffset++
			w.Outcomes = append(w.Outcomes, o)
		}},
		{"a replay of another attempt", "says", func(w *World) { w.Outcomes[len(w.Outcomes)-1].Attempt = 3 }},
		{"a replay of what was processed", "was processed at", func(w *World) {
			w.Outcomes[slices.IndexFunc(w.Outcomes, func(o Outcome) bool { return o.Unmatched != nil })].Processed = true
		}},
		{"a replay accepted anew", "was accepted at", func(w *World) { w.Outcomes[len(w.Outcomes)-1].AcceptedAt = noon }},
		{"a replay forgotten", "attempts remembered", func(w *World) { clear(w.Attempts) }},
		{"a replay with the place of a new sale", "of version 1, the outcome at", func(w *World) {
			w.Outcomes[len(w.Outcomes)-1].Unmatched = &schemas.UnmatchedSale{SaleKey: "S", Version: w.Items[len(w.Items)-2].Offset}
		}},
		{"a replay counted beside its first attempt", "batch_status", func(w *World) { w.Status[saleBatch] = StatusNow{schemas.BatchComplete, 1, 2} }},
		{"a row of another attempt", "attempt 2, the record", func(w *World) { w.Tables["ownership"][0].Attempt = 2 }},
		{"an outcome of nothing", "where no item lies", func(w *World) { w.Outcomes[0].SourceOffset = 99 }},
		{"an outcome of another item", "its outcome at", func(w *World) { w.Outcomes[0].ID = "x" }},
		{"our fault", "internal error", func(w *World) { w.Outcomes[4].Reasons = []schemas.Reason{{Code: schemas.CodeInternalError}} }},
		{"half a batch", "announces 3 items", func(w *World) { w.Batches[0].Items = 3 }},
		{"items without header", "has no header", func(w *World) { w.Batches = nil }},
		{"an item twice in its batch", "announces 2 items", func(w *World) { w.Items[1].Index = 0 }},
		{"a batch shown as unfinished", "the view {Status:processing", func(w *World) { w.Status[batchKey] = StatusNow{schemas.BatchProcessing, 1, 0} }},
		{"a batch shown with other counts", "the view {Status:complete Processed:1 Unprocessed:1", func(w *World) { w.Status[batchKey] = StatusNow{schemas.BatchComplete, 1, 1} }},
		{"a batch not shown", "the view nothing", func(w *World) { delete(w.Status, callBatch) }},
		{"forwarded twice", "forwarded 2 times", func(w *World) { w.Items = append(w.Items, w.Items[2]) }},
		{"not forwarded", "forwarded 0 times", func(w *World) { w.Items = slices.Delete(w.Items, 2, 3) }},
		{"judged in a wrong partition", "was judged there", func(w *World) { w.Items[0].Misplaced = true }},
		{"a wrong quantity", "the model goes from", func(w *World) { w.Outcomes[1].Ownership.Quantity = 7 }},
		{"a wrong order", "the model goes from", func(w *World) {
			w.Outcomes[0].Ownership, w.Outcomes[1].Ownership = w.Outcomes[1].Ownership, w.Outcomes[0].Ownership
		}},
		{"a changelog behind", "the changelog 2", func(w *World) { w.State["t\x00u\x00s"] = schemas.OwnershipState{Quantity: 2, Version: 3} }},
		{"a record that should be gone", "the model has nothing, the changelog", func(w *World) { w.State["t\x00v\x00s"] = schemas.OwnershipState{Quantity: 2} }},
		{"a view behind", "the view 2", func(w *World) { w.Ownership["t\x00u\x00s"] = 2 }},
		{"a row missing", "at ownership.processed/1@0 has no row", func(w *World) { w.Tables["ownership"] = w.Tables["ownership"][1:] }},
		{"a row twice", "has two rows", func(w *World) { w.Tables["ownership"] = append(w.Tables["ownership"], w.Tables["ownership"][0]) }},
		{"a row of an aborted record", "no committed record for it lies", func(w *World) {
			w.Tables["ownership"] = append(w.Tables["ownership"], Row{Position{"ownership.processed", 0, 77}, "t", "y", 1})
		}},
		{"a sale judged and not kept", "neither a match nor an unmatched sale", func(w *World) { w.Outcomes[4].Unmatched = nil }},
		{"a sale under another key", `says "T"`, func(w *World) { w.Outcomes[3].Sale.SaleKey = "T" }},
		{"a sale of another version", "of version 7", func(w *World) { w.Outcomes[4].Unmatched.Version = 7 }},
		{"a sale's version that does not grow", "comes after version", func(w *World) {
			w.Items[4].Offset, w.Outcomes[3].SourceOffset, w.Outcomes[3].Sale.Version = 1, 1, 1
			w.Items[5].Partition, w.Outcomes[4].SourcePartition = 9, 9
		}},
		{"an earlier sale shown", "the view {Version:0", func(w *World) { w.Sales["t\x00S"] = SaleNow{ID: w.Items[4].ID, CallID: "c1", Value: "0"} }},
		{"a sale not shown", "the view nothing", func(w *World) { clear(w.Sales) }},
		{"a sale that nobody sent", "the model has nothing", func(w *World) { w.Sales["t\x00T"] = SaleNow{} }},
		{"an unmatched sale not among sales", "at sales.unprocessed", func(w *World) { w.Tables["sales"] = w.Tables["sales"][:1] }},
		{"an unmatched sale not among the unprocessed", "at sales.unprocessed", func(w *World) { w.Tables["unprocessed"] = nil }},
		{"a call that was there overlooked", "is unmatched at", func(w *World) { w.Items[5].Sale.MHID = new("M") }},
		{"a call of a producer's time that its sender knew was there overlooked", "is unmatched at", func(w *World) {
			w.Records[0].Producers, w.Items[5].Sale.MHID = true, new("M")
		}},
		{"a call of a producer's time, through the API, overlooked", "is unmatched at", func(w *World) {
			w.Records = w.Records[2:]
			w.Records[0].Producers, w.Items[5].Sale.MHID, w.Items[5].Appended = true, new("M"), noon.Add(time.Hour)
		}},
		{"a match with no call", "which is not there", func(w *World) { w.Outcomes[3].Sale.CallID = "c9" }},
		{"a match with a stranger's call", "does not share it", func(w *World) { w.Items[4].Sale.MHID = new("N") }},
		{"a match outside the window", "outside its window", func(w *World) { w.Items[4].Sale.Date = new(noon.AddDate(0, 3, 0)) }},
		{"a match with the worse call", "a better one was there", func(w *World) {
			w.Items[4].Appended = noon.Add(time.Hour)
			w.Records[2].Call.StartedAt = noon.Add(-time.Minute)
		}},
		{"a transaction that was replaced shown", "is not the last", func(w *World) { w.Transactions[w.Items[6].ID] = true }},
		{"a last transaction not shown", "the view does not show", func(w *World) { delete(w.Transactions, w.Items[7].ID) }},
		{"a transaction without id not shown", "the view does not show", func(w *World) { delete(w.Transactions, w.Items[8].ID) }},
		{"a transaction not in its table", "at transactions.processed", func(w *World) { w.Tables["transactions"] = nil }},
		{"an old fact shown", "the topic's last is", func(w *World) {
			w.Facts["calls"]["t/c1"] = FactNow{schemas.FactVersion(w.Records[0].Appended, 0), w.Records[0].Text}
		}},
		{"a fact missing", "the topic's last is", func(w *World) { delete(w.Facts["calls"], "t/c2") }},
		{"a deleted fact shown", "the topic's last is", func(w *World) { w.Facts["calls"]["t/c3"] = FactNow{Version: 1, Text: "x"} }},
		{"a fact of another content", "the topic's last is", func(w *World) {
			now := w.Facts["calls"]["t/c1"]
			w.Facts["calls"]["t/c1"] = FactNow{now.Version, w.Records[0].Text}
		}},
		{"a fact that nobody sent", "the topic has nothing", func(w *World) { w.Facts["calls"]["t/c4"] = FactNow{Version: 1} }},
		{"an acknowledged fact lost", "m6 was accepted and is not there", func(w *World) { w.Records = w.Records[1:] }},
		{"a record of the API lost", "and it is not", func(w *World) { w.Records = w.Records[:2] }},
		{"a record of the API twice", "lies at", func(w *World) { w.Records = append(w.Records, w.Records[2]) }},
		{"a record of the API without outcome", "has no outcome", func(w *World) { w.Outcomes[5].Reference.Kind = "stock" }},
		{"a record of the API under another id", "says c9 of t", func(w *World) { w.Outcomes[5].Reference.OwnID = "c9" }},
		{"two outcomes of a record of the API", "has outcomes at", func(w *World) { w.Outcomes = append(w.Outcomes, w.Outcomes[5]) }},
		{"a good fact dead", "can be read and is a dead letter", func(w *World) { w.Dead[w.Records[1].Position] = true }},
		{"a repeated request with an effect", "was passed on, and so was", func(w *World) { w.header(repeatBatch, 0) }},
		{"a first request without effect", "was not passed on", func(w *World) { w.Batches = slices.Delete(w.Batches, 1, 2) }},
		{"a request without answer", "has 0 answers", func(w *World) { w.Answers = w.Answers[:1] }},
		{"a request with two answers", "has 2 answers", func(w *World) { w.Answers = append(w.Answers, w.Answers[1]) }},
		{"a request told wrong", "says accepted", func(w *World) { w.Answers[1].Verdict = schemas.RequestAccepted }},
		{"a request told of another batch", "of number 9", func(w *World) { w.Answers[1].Number = 9 }},
		{"a request elsewhere", "wrong partition", func(w *World) { w.Requests[0].Partition += 4 }},
		{"an answer to nobody", "of which there is no request", func(w *World) { w.Requests = w.Requests[:2] }},
		{"a key forgotten", "the view nothing", func(w *World) { clear(w.Remembered) }},
		{"a key remembered of the wrong request", "the view 2123", func(w *World) { w.Remembered[w.Requests[0].Key] = schemas.Request{Batch: repeatBatch} }},
		{"an accepted batch lost", "was accepted and is not there", func(w *World) { w.Items = w.Items[2:] }},
		{"a refused batch there", "was refused and is there", func(w *World) { w.Items[0].Marker, w.Items[1].Marker = "m3", "m3" }},
		{"an unknown batch half there", "1 items, 2 are there", func(w *World) { w.Items[0].Marker, w.Items[1].Marker = "m4", "m4" }},
		{"something that nobody sent", "nobody sent", func(w *World) { w.Items[0].Marker = "m99" }},
		{"a dead letter with an outcome", "is a dead letter", func(w *World) { w.Dead[w.Items[0].Position] = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			c.hurt(w)
			found := strings.Join(w.Check(goodSent), "\n")
			if !strings.Contains(found, c.want) {
				t.Errorf("want %q among\n%s", c.want, found)
			}
		})
	}
}

func TestReferralsAreJudgedInOrder(t *testing.T) {
	number := func(n string) *schemas.Referral {
		return &schemas.Referral{Referred: &schemas.ParticipantIdentifier{Number: &n}}
	}
	id := &schemas.Referral{Referred: &schemas.ParticipantIdentifier{ID: new("Aa")}}
	done := &schemas.ReferralResult{ReferredID: "aA", ReferredNumber: "1"}
	for _, tt := range []struct {
		name  string
		items []*schemas.Referral
		done  []*schemas.ReferralResult // nil: already referred
		want  int
	}{
		{"referred, and again by number and id", []*schemas.Referral{number("1"), number("1"), id}, []*schemas.ReferralResult{done, nil, nil}, 0},
		{"refused before anybody was referred", []*schemas.Referral{number("1"), number("1")}, []*schemas.ReferralResult{nil, done}, 1},
		{"refused, and another one was referred", []*schemas.Referral{number("1"), number("2")}, []*schemas.ReferralResult{done, nil}, 1},
		{"referred twice", []*schemas.Referral{number("1"), id}, []*schemas.ReferralResult{done, done}, 1},
	} {
		w := &World{}
		for i := range tt.items {
			at := Position{schemas.KindReferrals, 0, int64(i)}
			w.Items = append(w.Items, Item{Position: at, Tenant: "t", Referral: tt.items[i]})
			o := Outcome{Referral: tt.done[i], Processed: tt.done[i] != nil}
			o.Outcome = schemas.Outcome{Tenant: "t", SourceTopic: at.Topic, SourceOffset: at.Offset}
			if !o.Processed {
				o.Reasons = []schemas.Reason{{Code: schemas.CodeAlreadyReferred}}
			}
			w.Outcomes = append(w.Outcomes, o)
		}
		p := &problems{}
		if w.checkReferrals(p); len(p.all) != tt.want {
			t.Errorf("%s: found %q, want %d", tt.name, p.all, tt.want)
		}
	}
}
