package processors

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// replayOf is a replay of an item as the outcome of an attempt left it, in the given partition.
func replayOf(o *outcome, attempt, partition int32, value []byte) *kgo.Record {
	env := schemas.Envelope{
		Tenant: o.Tenant, Index: o.Index, Reply: -1, Attempt: attempt, Ref: o.Ref,
		First: &schemas.First{ID: o.ID, Epoch: o.SourceEpoch, Offset: o.SourceOffset, AcceptedAt: o.AcceptedAt},
	}
	if o.Batch != nil {
		env.Batch, env.Reply = *o.Batch, o.rec.Partition
	}
	return &kgo.Record{Topic: o.SourceTopic, Partition: partition, Value: value, Headers: env.Headers(nil)}
}

// TestAReplayIsJudgedOnce sends each replay several times, to several partitions, and again after a take-over.
func TestAReplayIsJudgedOnce(t *testing.T) {
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "U", Name: "Unit"})
	c := w.start(Validation, nil).ready()
	value, batch := w.event("A"), schemas.NewBatchKey()
	w.produce(
		&kgo.Record{Topic: schemas.KindCustomerEvents, Partition: 1, Value: value, Headers: bare()},
		&kgo.Record{Topic: schemas.KindCustomerEvents, Partition: 2, Value: value, Headers: envelope(schemas.Envelope{Batch: batch, Index: 7, Reply: 3, Ref: new("r")})},
	)
	first := w.awaitOutcomes(schemas.KindCustomerEvents, 2)
	again := func(attempt int32) {
		t.Helper()
		for range 2 {
			for p := range int32(partitions) {
				w.produce(replayOf(&first[0], attempt, p, value), replayOf(&first[1], attempt, p, value))
			}
		}
	}
	again(2) // the account is still missing
	w.awaitOutcomes(schemas.KindCustomerEvents, 4)
	w.reference(schemas.Accounts, &schemas.Account{ID: "a", Number: "A"})
	again(3)
	w.awaitOutcomes(schemas.KindCustomerEvents, 6)
	settle := func() {
		t.Helper()
		w.eventually("everything is judged", func() error {
			if lag, err := w.lag(Group(Validation)); err != nil || lag != 0 {
				return fmt.Errorf("lag %d, %w", lag, err)
			}
			return nil
		})
	}
	settle()
	if got := counted(c.metrics.late.WithLabelValues(schemas.KindCustomerEvents)); got < 20 {
		t.Errorf("%v late replays, want those that were sent in vain", got)
	}
	c.kill()
	w.start(Validation, nil).ready()
	again(2)
	again(3)
	settle()
	outcomes := w.awaitOutcomes(schemas.KindCustomerEvents, 6)
	for _, f := range first {
		var got []schemas.Outcome
		for _, o := range outcomes {
			if o.ID != f.ID {
				continue
			}
			if o.processed != (o.Attempt == 3) {
				t.Errorf("attempt %d: processed %t", o.Attempt, o.processed)
			}
			if o.Attempt > 1 && o.SourcePartition != schemas.Partition([]byte(f.ID), partitions) {
				t.Errorf("attempt %d was judged in partition %d", o.Attempt, o.SourcePartition)
			}
			if want := f.rec.Partition; f.Batch != nil && o.rec.Partition != want {
				t.Errorf("outcome of attempt %d on partition %d, want the reply partition %d", o.Attempt, o.rec.Partition, want)
			}
			o.SourcePartition, o.SourceOffset, o.JudgedAt = f.SourcePartition, f.SourceOffset, f.JudgedAt
			got = append(got, o.Outcome)
		}
		slices.SortFunc(got, func(a, b schemas.Outcome) int { return int(a.Attempt - b.Attempt) })
		want := []schemas.Outcome{f.Outcome, f.Outcome, f.Outcome}
		want[1].Attempt, want[2].Attempt = 2, 3
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	}
}

// TestReplaysMeetTheMemoryOfThoseBefore: with state and without, with defects and with a key, whoever owns the partition.
func TestReplaysMeetTheMemoryOfThoseBefore(t *testing.T) {
	for _, c := range []struct {
		name, kind, processor string
		value                 func(w *world) []byte
	}{
		{"ownership with defects", schemas.KindOwnership, Upserts, func(w *world) []byte {
			return w.encode(schemas.KindOwnership, &schemas.Ownership{Clear: []string{}})
		}},
		{"a transaction with defects", schemas.KindTransactions, Validation, func(w *world) []byte {
			return w.encode(schemas.KindTransactions, &schemas.Transaction{TransactionID: new(string(make([]byte, 70_000)))})
		}},
		{"a sale of an id", schemas.KindSales, Matching, func(w *world) []byte {
			return w.encode(schemas.KindSales, &schemas.Sale{ID: new("S"), Date: new(time.UnixMilli(1700000000000).UTC().Truncate(24 * time.Hour)), MHID: new("M"), CLIs: &[]string{}, Lookback: new(int32(1)), Properties: []schemas.SaleProperty{}})
		}},
		{"a sale without one", schemas.KindSales, Matching, func(w *world) []byte {
			return w.encode(schemas.KindSales, &schemas.Sale{Date: new(time.UnixMilli(1700000000000).UTC().Truncate(24 * time.Hour)), MHID: new("M"), CLIs: &[]string{}, Lookback: new(int32(1)), Properties: []schemas.SaleProperty{}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.processor == Matching {
				w.sink(0)
			}
			copies := []*copyOf{w.start(c.processor, nil).ready(), w.start(c.processor, nil).ready()}
			value := c.value(w)
			w.produce(&kgo.Record{Topic: c.kind, Partition: 1, Value: value, Headers: bare()})
			first := w.awaitOutcomes(c.kind, 1)[0]
			if first.processed {
				t.Fatal("the item is processed at once")
			}
			for attempt := int32(2); attempt < 5; attempt++ {
				for p := range int32(partitions) {
					w.produce(replayOf(&first, attempt, p, value))
				}
				w.awaitOutcomes(c.kind, int(attempt))
				if attempt == 3 {
					copies[0].kill()
				}
			}
			w.eventually("everything is judged", func() error {
				if lag, err := w.lag(Group(c.processor)); err != nil || lag != 0 {
					return fmt.Errorf("lag %d, %w", lag, err)
				}
				return nil
			})
			w.awaitOutcomes(c.kind, 4)
		})
	}
}

func TestAReplayedSaleKeepsItsPlace(t *testing.T) {
	w := newWorld(t)
	w.sink(0)
	w.start(Matching, nil).ready()
	sale := func(id, mhid string) []byte {
		return w.encode(schemas.KindSales, &schemas.Sale{ID: &id, Date: new(time.UnixMilli(1700000000000).UTC().Truncate(24 * time.Hour)), MHID: &mhid, CLIs: &[]string{}, Lookback: new(int32(1)), Properties: []schemas.SaleProperty{}})
	}
	value := sale("S", "M")
	w.produce(&kgo.Record{Topic: schemas.KindSales, Value: value, Headers: bare()})
	first := w.awaitOutcomes(schemas.KindSales, 1)[0]
	w.produce(&kgo.Record{Topic: schemas.KindSales, Value: sale("S", "N"), Headers: bare()})
	w.awaitOutcomes(schemas.KindSales, 2)
	w.produce(replayOf(&first, 2, 0, value))
	for _, o := range w.awaitOutcomes(schemas.KindSales, 3) {
		if o.Attempt == 2 && (o.unprocessed.Sale.Version != first.unprocessed.Sale.Version || o.SourceOffset <= first.SourceOffset) {
			t.Errorf("the replay at %d has version %d, want that of the sale, %d", o.SourceOffset, o.unprocessed.Sale.Version, first.unprocessed.Sale.Version)
		}
	}
}

func TestAReplayUndoesNoLaterChange(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	user, sku := "Ann", "S"
	set := func(n int64) []byte {
		return w.encode(schemas.KindOwnership, &schemas.Ownership{UserName: &user, ProductSKU: &sku, Quantity: &n, Source: new(fmt.Sprint("set ", n)), Clear: []string{}})
	}
	add := w.encode(schemas.KindOwnership, &schemas.Ownership{UserName: &user, ProductSKU: &sku, Source: new("added"), Clear: []string{}})
	at := schemas.Partition(upserts.Key(tenant, &schemas.Ownership{UserName: &user, ProductSKU: &sku}), partitions)
	bad := w.encode(schemas.KindOwnership, &schemas.Ownership{Clear: []string{}})
	w.produce(
		&kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: bad, Headers: bare()},
		&kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: bad, Headers: bare()},
		&kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: set(5), Headers: bare()},
	)
	before := w.awaitOutcomes(schemas.KindOwnership, 3)
	slices.SortFunc(before, func(a, b outcome) int { return int(a.SourceOffset - b.SourceOffset) })
	w.produce(replayOf(&before[0], 2, at, set(3)), replayOf(&before[1], 2, at, add))
	for _, o := range w.awaitOutcomes(schemas.KindOwnership, 5) {
		switch {
		case o.Attempt == 1:
		case o.ID == before[0].ID && (o.processed || o.unprocessed.Reasons[0].Code != schemas.CodeSuperseded):
			t.Errorf("setting what was set later is %+v", o)
		case o.ID == before[1].ID && (!o.processed || o.ownership.Quantity != 6 || *o.ownership.OwnershipResult.Source != "set 5"):
			t.Errorf("adding to what was set later is %+v", o)
		}
	}
}

// TestReplaysAreForgottenInTime lets the producer say when replays were accepted.
func TestReplaysAreForgottenInTime(t *testing.T) {
	w := newWorld(t)
	create := "CreateTime"
	_, err := w.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "message.timestamp.type", Value: &create}}, schemas.KindOwnership)
	if err != nil {
		t.Fatal(err)
	}
	c := w.start(Upserts, nil).ready()
	value := w.encode(schemas.KindOwnership, &schemas.Ownership{Clear: []string{}})
	w.produce(&kgo.Record{Topic: schemas.KindOwnership, Partition: 1, Value: value, Headers: bare()}, &kgo.Record{Topic: schemas.KindOwnership, Partition: 1, Value: value, Headers: bare()})
	first := w.awaitOutcomes(schemas.KindOwnership, 2)
	now := time.Now().Add(-3 * attemptMemory) // a broker takes no times to come
	replay := func(o *outcome, attempt int32, at time.Time) {
		rec := replayOf(o, attempt, schemas.Partition([]byte(o.ID), partitions), value)
		rec.Timestamp = at
		w.produce(rec)
	}
	for i := range first { // whichever partitions they have
		replay(&first[i], 2, now)
	}
	w.awaitOutcomes(schemas.KindOwnership, 4)
	for i := range first {
		replay(&first[i], 3, now.Add(attemptMemory/2))
	}
	w.awaitOutcomes(schemas.KindOwnership, 6)
	replay(&first[0], 4, now.Add(2*attemptMemory))
	w.awaitOutcomes(schemas.KindOwnership, 7)
	c.stop()
	remembered := map[string]int32{}
	for _, rec := range w.read(schemas.Attempts) {
		if rec.Value == nil {
			delete(remembered, string(rec.Key))
			continue
		}
		remembered[string(rec.Key)] = decode[schemas.Attempt](w, schemas.AttemptSchema, rec.Value).Attempt
	}
	want := map[string]int32{string(schemas.AttemptKey(schemas.KindOwnership, first[0].ID)): 4}
	if a, b := schemas.Partition([]byte(first[0].ID), partitions), schemas.Partition([]byte(first[1].ID), partitions); a != b {
		want[string(schemas.AttemptKey(schemas.KindOwnership, first[1].ID))] = 3 // no record moved the time of its partition
	}
	if diff := cmp.Diff(want, remembered); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
}

// TestARehearsalIsWhatHappensThen rehearses replays of each kind, and then publishes them.
func TestARehearsalIsWhatHappensThen(t *testing.T) {
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "U", Name: "Unit"})
	c := w.start(Validation, nil).ready()
	known, unknown := w.event("A"), w.event("B")
	referral := w.encode(schemas.KindReferrals, &schemas.Referral{
		Referred: &schemas.ParticipantIdentifier{ID: new("p")}, ReferredBy: &schemas.ParticipantIdentifier{ID: new("q")},
		EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: new(time.UnixMilli(1700000000000).UTC())},
	})
	for range 2 {
		w.produce(&kgo.Record{Topic: schemas.KindReferrals, Partition: 3, Value: referral, Headers: bare()})
	}
	w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Value: known, Headers: bare()}, &kgo.Record{Topic: schemas.KindCustomerEvents, Partition: 1, Value: unknown, Headers: bare()})
	items := append(w.awaitOutcomes(schemas.KindReferrals, 2), w.awaitOutcomes(schemas.KindCustomerEvents, 2)...)
	w.reference(schemas.Accounts, &schemas.Account{ID: "a", Number: "A"})
	for _, id := range []string{"p", "q"} {
		w.reference(schemas.Participants, &schemas.Participant{ID: id, Number: id})
	}

	deps := c.deps
	deps.Metrics = prometheus.NewRegistry()
	r, err := NewRehearsal(t.Context(), testConfig(), deps, Validation)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var records []*kgo.Record
	for i := range items {
		rec := replayOf(&items[i], 2, 0, items[i].unprocessed.Original)
		if _, err := r.Place(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
	rehearsed, err := r.Judge(t.Context(), records[:1])
	if err != nil {
		t.Fatal(err)
	}
	rest, err := r.Judge(t.Context(), records[1:]) // the second referral is judged after the first
	if err != nil {
		t.Fatal(err)
	}
	rehearsed = append(rehearsed, rest...)
	if n := len(w.outcomes(schemas.KindReferrals)); n != 2 {
		t.Fatalf("%d outcomes after a rehearsal, want no new ones", n)
	}
	for i, rec := range records {
		records[i] = &kgo.Record{Topic: rec.Topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Headers: rec.Headers}
	}
	w.produce(records...)
	after := append(w.awaitOutcomes(schemas.KindReferrals, 4), w.awaitOutcomes(schemas.KindCustomerEvents, 4)...)
	codes := func(reasons []schemas.Reason) (all []string) {
		for _, r := range reasons {
			all = append(all, r.Code)
		}
		return all
	}
	for i := range items {
		var got Rehearsed
		for _, o := range after {
			if o.ID == items[i].ID && o.Attempt == 2 {
				got.Processed = o.processed
				if !o.processed {
					got.Reasons = o.unprocessed.Reasons
				}
			}
		}
		if rehearsed[i].Processed != got.Processed || !slices.Equal(codes(rehearsed[i].Reasons), codes(got.Reasons)) || rehearsed[i].Late || rehearsed[i].Dead {
			t.Errorf("%s: rehearsed %+v, then %+v", items[i].SourceTopic, rehearsed[i], got)
		}
	}
	if !rehearsed[0].Processed || rehearsed[1].Processed || rehearsed[1].Reasons[0].Code != schemas.CodeAlreadyReferred {
		t.Errorf("referrals were rehearsed as %+v and %+v", rehearsed[0], rehearsed[1])
	}
}
