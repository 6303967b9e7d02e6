package processors

import (
	"bytes"
	cmp2 "cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// grant is an ownership item that adds one.
func (w *world) grant(user, sku string) (item schemas.Ownership, value []byte) {
	item = schemas.Ownership{UserName: &user, ProductSKU: &sku, Clear: []string{}}
	return item, w.encode(schemas.KindOwnership, &item)
}

func TestBatchGetsItsOutcomesOnTheReplyPartition(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	var recs []*kgo.Record
	for i := range int32(10) {
		item, value := w.grant(fmt.Sprintf("user-%d", i%3), "sku")
		recs = append(recs, &kgo.Record{
			Topic: schemas.KindOwnership, Partition: schemas.Partition(upserts.Key(tenant, &item), partitions), Value: value,
			Headers: envelope(schemas.Envelope{Batch: batchKey, Index: i, Reply: 2, Ref: new(fmt.Sprint("ref-", i)), TraceParent: "00-trace"}),
		})
	}
	w.produce(recs...)
	for _, o := range w.awaitOutcomes(schemas.KindOwnership, 10) {
		if !o.processed || o.rec.Partition != 2 {
			t.Errorf("processed %t on partition %d, want processed on 2", o.processed, o.rec.Partition)
		}
		source := recs[o.Index]
		want := schemas.Outcome{
			Tenant: tenant, ID: schemas.ItemID(tenant, batchKey, o.Index), Batch: new(batchKey), Index: o.Index, Attempt: 1,
			Ref: new(fmt.Sprint("ref-", o.Index)), SourceTopic: schemas.KindOwnership, SourcePartition: source.Partition, SourceOffset: source.Offset,
			AcceptedAt: o.AcceptedAt, JudgedAt: o.JudgedAt,
		}
		if diff := cmp.Diff(want, o.Outcome); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
		env, err := schemas.ParseEnvelope(o.rec.Headers)
		wantEnv := schemas.Envelope{Tenant: tenant, Batch: batchKey, Index: o.Index, Reply: -1, Attempt: 1, Ref: o.Ref, TraceParent: "00-trace"}
		if diff := cmp.Diff(wantEnv, env); diff != "" || err != nil {
			t.Errorf("envelope (-want +got): %v\n%s", err, diff)
		}
		if got, want := o.ownership.Version, schemas.Version(0, source.Offset); got != want {
			t.Errorf("version %d, want %d", got, want)
		}
	}
}

// TestOneOutcomePerItemAcrossKillsAndRebalances sends items, part of them to the wrong partition, while copies come, go and die.
func TestOneOutcomePerItemAcrossKillsAndRebalances(t *testing.T) {
	const items, keys = 12_000, 150
	w := newWorld(t)
	first := w.start(Upserts, nil).ready()
	sent := map[string]bool{} // item ids of batch items
	var misplaced int
	events := map[int]func(){
		2: func() { w.start(Upserts, func(c *Config) { c.Instance = "static" }) },
		4: func() { first.kill() },
		6: func() { first = w.start(Upserts, nil) },
		9: func() { first.stop() },
	}
	for step := range 12 {
		if event := events[step]; event != nil {
			event()
		}
		batch := schemas.NewBatchKey()
		var recs []*kgo.Record
		for i := range int32(items / 12) {
			item, value := w.grant(fmt.Sprintf("User-%d", int(i)*7%keys), "sku")
			at := schemas.Partition(upserts.Key(tenant, &item), partitions)
			if i%10 == 0 {
				at = (at + 1) % partitions
				misplaced++
			}
			recs = append(recs, &kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: value,
				Headers: envelope(schemas.Envelope{Batch: batch, Index: i, Reply: i % partitions})})
			sent[schemas.ItemID(tenant, batch, i)] = true
		}
		w.produce(recs...)
		time.Sleep(150 * time.Millisecond)
	}
	outcomes := w.awaitOutcomes(schemas.KindOwnership, items)
	for _, o := range outcomes {
		if !sent[o.ID] {
			t.Fatalf("second outcome, or one of an item never sent: %s", o.ID)
		}
		delete(sent, o.ID)
	}
	w.checkSequential(outcomes)
	w.eventually("lag is 0", func() error {
		if lag, err := w.lag(Group(Upserts)); err != nil || lag != 0 {
			return fmt.Errorf("lag %d, %w", lag, err)
		}
		return nil
	})
}

// checkSequential replays ownership outcomes in the order of their positions through the pure decision and compares every one, and the
// changelog, with what the copies made of it.
func (w *world) checkSequential(outcomes []outcome) {
	w.t.Helper()
	slices.SortFunc(outcomes, func(a, b outcome) int {
		return cmp2.Or(cmp2.Compare(a.SourcePartition, b.SourcePartition), cmp2.Compare(a.SourceOffset, b.SourceOffset))
	})
	model := map[string]*schemas.OwnershipState{}
	for _, o := range outcomes {
		if !o.processed {
			w.t.Fatalf("unprocessed: %+v", o.unprocessed.Reasons)
		}
		item := o.ownership.Item
		key := upserts.Key(o.Tenant, &item)
		if right := schemas.Partition(key, partitions); right != o.SourcePartition {
			w.t.Fatalf("judged in partition %d, its key's is %d", o.SourcePartition, right)
		}
		want, next := upserts.Decide(&item, model[string(key)], schemas.Version(0, o.SourceOffset))
		want.Outcome = o.Outcome
		if diff := cmp.Diff(want, o.ownership.OwnershipResult); diff != "" {
			w.t.Fatalf("outcome at %d/%d (-model +got):\n%s", o.SourcePartition, o.SourceOffset, diff)
		}
		model[string(key)] = next
		if next == nil {
			delete(model, string(key))
		}
	}
	state := map[string]*schemas.OwnershipState{}
	for _, rec := range w.read(schemas.StateTopic(schemas.KindOwnership)) {
		if rec.Value == nil {
			delete(state, string(rec.Key))
			continue
		}
		state[string(rec.Key)] = decode[schemas.OwnershipState](w, schemas.OwnershipStateSchema, rec.Value)
	}
	if diff := cmp.Diff(model, state); diff != "" {
		w.t.Errorf("changelog (-model +got):\n%s", diff)
	}
}

func TestMisplacedRecordKeepsItsIdentity(t *testing.T) {
	w := newWorld(t)
	c := w.start(Upserts, nil).ready()
	item, value := w.grant("Ann", "SKU-1")
	right := schemas.Partition(upserts.Key(tenant, &item), partitions)
	rec := &kgo.Record{Topic: schemas.KindOwnership, Partition: (right + 1) % partitions, Key: []byte("theirs"), Value: value,
		Headers: append(bare(), kgo.RecordHeader{Key: "own", Value: []byte("header")})}
	w.produce(rec)
	o := w.awaitOutcomes(schemas.KindOwnership, 1)[0]
	if want := schemas.BareItemID(rec.Topic, 0, rec.Partition, rec.Offset); o.ID != want {
		t.Errorf("identity %s, want that of its origin %s", o.ID, want)
	}
	if o.SourcePartition != right || o.rec.Partition != right {
		t.Errorf("judged in %d, outcome in %d, want both in %d", o.SourcePartition, o.rec.Partition, right)
	}
	var forwarded *kgo.Record
	for _, r := range w.read(schemas.KindOwnership) {
		if r.Partition == right {
			forwarded = r
		}
	}
	if forwarded == nil || string(forwarded.Key) != "theirs" || !bytes.Equal(forwarded.Value, value) {
		t.Fatalf("forwarded record is %+v, want key and value unchanged", forwarded)
	}
	wantHeaders := append(slices.Clone(rec.Headers), kgo.RecordHeader{Key: schemas.HeaderOrigin, Value: fmt.Appendf(nil, "%d/%d", rec.Partition, rec.Offset)})
	if diff := cmp.Diff(wantHeaders, forwarded.Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got := counted(c.metrics.forwarded.WithLabelValues(schemas.KindOwnership)); got != 1 {
		t.Errorf("forwarded_total %v, want 1", got)
	}
}

func TestStateIsRestored(t *testing.T) {
	w := newWorld(t)
	for round := range 3 {
		c := w.start(Upserts, nil).ready()
		var recs []*kgo.Record
		for i := range 200 {
			item, value := w.grant(fmt.Sprint("user-", i%40), "sku")
			recs = append(recs, &kgo.Record{Topic: schemas.KindOwnership, Partition: schemas.Partition(upserts.Key(tenant, &item), partitions), Value: value, Headers: bare()})
		}
		w.produce(recs...)
		w.checkSequential(w.awaitOutcomes(schemas.KindOwnership, 200*(round+1)))
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadRecordsBecomeDeadLettersAndStopNobody(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	item, good := w.grant("ann", "sku")
	at := schemas.Partition(upserts.Key(tenant, &item), partitions)
	unknown := append([]byte{0, 0, 0, 0x27, 0x0f}, 1, 2, 3)
	rec := func(value []byte, headers []kgo.RecordHeader) *kgo.Record {
		return &kgo.Record{Topic: schemas.KindOwnership, Partition: at, Key: []byte("k"), Value: value, Headers: headers}
	}
	bad := []struct {
		rec  *kgo.Record
		code string
	}{
		{rec(good, nil), schemas.CodeTenantMissing},
		{rec([]byte("not avro"), bare()), schemas.CodeUndecodable},
		{rec(good[:len(good)-3], bare()), schemas.CodeUndecodable},
		{rec(nil, bare()), schemas.CodeUndecodable},
		{rec(good, append(bare(), kgo.RecordHeader{Key: schemas.HeaderReply, Value: []byte("x")})), schemas.CodeBadHeader},
		{rec(unknown, bare()), schemas.CodeUnknownSchema},
	}
	for _, b := range bad {
		w.produce(b.rec, rec(good, bare()))
	}
	w.awaitOutcomes(schemas.KindOwnership, len(bad))
	letters := w.read(schemas.DeadLetters)
	if len(letters) != len(bad) {
		t.Fatalf("%d dead letters, want %d", len(letters), len(bad))
	}
	for i, b := range bad {
		got := decode[schemas.DeadLetter](w, schemas.DeadLetterSchema, letters[i].Value)
		if got.Reason.Code != b.code || got.Offset != b.rec.Offset || got.Partition != at || got.Topic != schemas.KindOwnership ||
			(got.Value == nil) != (b.rec.Value == nil) || got.Value != nil && !bytes.Equal(*got.Value, b.rec.Value) || len(got.Headers) != len(b.rec.Headers) {
			t.Errorf("dead letter %d is %+v, want %s of offset %d", i, got, b.code, b.rec.Offset)
		}
	}
}

func TestDefectsAreUnprocessedWithTheOriginal(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	value := w.encode(schemas.KindOwnership, &schemas.Ownership{Clear: []string{}})
	w.produce(&kgo.Record{Topic: schemas.KindOwnership, Partition: 3, Value: value, Headers: bare()})
	o := w.awaitOutcomes(schemas.KindOwnership, 1)[0]
	if o.processed || len(o.unprocessed.Reasons) != 2 || !bytes.Equal(o.unprocessed.Original, value) || o.unprocessed.Format != schemas.FormatAvro || o.rec.Partition != 3 {
		t.Errorf("outcome is %+v, want unprocessed for both members, with the record's value", o)
	}
}

// TestUnknownSchemaHoldsItsPartitionOnly: what the registry has not answered for waits, the others go on, and it is judged once it has.
func TestUnknownSchemaHoldsItsPartitionOnly(t *testing.T) {
	w := newWorld(t)
	w.registry.ConfirmAfter = time.Second
	w.start(Upserts, nil).ready()
	send := func(p int32) {
		for i := 0; ; i++ {
			item, value := w.grant(fmt.Sprint("user-", i), "sku")
			if schemas.Partition(upserts.Key(tenant, &item), partitions) == p {
				w.produce(&kgo.Record{Topic: schemas.KindOwnership, Partition: p, Value: value, Headers: bare()})
				return
			}
		}
	}
	send(0)
	w.awaitOutcomes(schemas.KindOwnership, 1)
	begun := time.Now().Truncate(time.Millisecond) // as the times of judging are
	bad := &kgo.Record{Topic: schemas.KindOwnership, Partition: 0, Value: []byte{0, 0, 0, 0x27, 0x0f, 1}, Headers: bare()}
	w.produce(bad)
	send(0)
	send(1)
	outcomes := w.awaitOutcomes(schemas.KindOwnership, 3)
	letters := w.read(schemas.DeadLetters)
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	found := decode[schemas.DeadLetter](w, schemas.DeadLetterSchema, letters[0].Value).At
	if waited := found.Sub(begun); waited < w.registry.ConfirmAfter {
		t.Errorf("held for %s only", waited)
	}
	for _, o := range outcomes {
		switch {
		case o.SourcePartition == 1 && !o.JudgedAt.Before(found):
			t.Errorf("another partition was held up, until %s behind the dead letter", o.JudgedAt.Sub(found))
		case o.SourcePartition == 0 && o.SourceOffset > bad.Offset && o.JudgedAt.Before(found):
			t.Errorf("what lies behind the record was judged %s before it", found.Sub(o.JudgedAt))
		}
	}
}

// panicky judges like the kind it wraps, but for one user.
type panicky struct{ *ownershipJudge }

func (j panicky) decide(it *item) verdict {
	v := j.ownershipJudge.decide(it)
	if *j.value.UserName == "trouble" {
		panic("injected")
	}
	return v
}

func TestPanicCostsOneItem(t *testing.T) {
	w := newWorld(t)
	original := kindNamed(kinds, schemas.KindOwnership)
	sick := *original
	sick.newJudge = func(l *lane) judge { return panicky{original.newJudge(l).(*ownershipJudge)} }
	c := w.startWith(Upserts, nil, func(p *Processor) { p.kinds = []*kind{&sick} }).ready()
	for _, user := range []string{"ann", "trouble", "ann"} {
		item, value := w.grant(user, "sku")
		w.produce(&kgo.Record{Topic: schemas.KindOwnership, Partition: schemas.Partition(upserts.Key(tenant, &item), partitions), Value: value, Headers: bare()})
	}
	var good []outcome
	for _, o := range w.awaitOutcomes(schemas.KindOwnership, 3) {
		if o.processed {
			good = append(good, o)
		} else if o.unprocessed.Reasons[0].Code != schemas.CodeInternalError {
			t.Errorf("reasons %+v, want internal_error", o.unprocessed.Reasons)
		}
	}
	if len(good) != 2 {
		t.Fatalf("%d processed, want 2", len(good))
	}
	w.checkSequential(good)
	if got := counted(c.metrics.panics); got != 1 {
		t.Errorf("panics_total %v, want 1", got)
	}
}

// TestSecondCopyOfAnInstanceFencesTheFirst: the first exits and its error names the setting.
func TestSecondCopyOfAnInstanceFencesTheFirst(t *testing.T) {
	w := newWorld(t)
	instance := func(c *Config) { c.Instance = "one" }
	first := w.start(Upserts, instance).ready()
	second := w.start(Upserts, instance)
	select {
	case err := <-first.done:
		first.done <- err
		if err == nil || !strings.Contains(err.Error(), "INSTANCE=one") {
			t.Errorf("the fenced copy ended with %v, want an error that names INSTANCE", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the fenced copy goes on")
	}
	second.ready()
}

// TestMarkersAreCommitted: an aborted batch leaves nothing but a marker, and the group's lag still ends at 0.
func TestMarkersAreCommitted(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	_, value := w.grant("ann", "sku")
	cl := w.newClient(kgo.TransactionalID("door"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.KindOwnership, Value: value, Headers: bare()}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	w.eventually("lag is 0", func() error {
		if lag, err := w.lag(Group(Upserts)); err != nil || lag != 0 {
			return fmt.Errorf("lag %d, %w", lag, err)
		}
		return nil
	})
	w.awaitOutcomes(schemas.KindOwnership, 0)
}

// TestMissingCommitIsAnError: no position is ever guessed.
func TestMissingCommitIsAnError(t *testing.T) {
	w := newWorld(t)
	if _, err := w.admin.DeleteGroups(t.Context(), Group(Upserts)); err != nil {
		t.Fatal(err)
	}
	w.start(Upserts, nil).endsWithoutPosition()
}

// TestPositionOutsideTheLogIsAnError: what lies between it and the log is lost, or the topic is another one. Neither is jumped over.
func TestPositionOutsideTheLogIsAnError(t *testing.T) {
	w := newWorld(t)
	beyond := kadm.Offsets{}
	beyond.Add(kadm.Offset{Topic: schemas.KindOwnership, Partition: 1, At: 1000, LeaderEpoch: -1})
	if err := w.admin.CommitAllOffsets(t.Context(), Group(Upserts), beyond); err != nil {
		t.Fatal(err)
	}
	w.start(Upserts, nil).endsWithoutPosition()
}

func (c *copyOf) endsWithoutPosition() {
	c.w.t.Helper()
	select {
	case err := <-c.done:
		c.done <- err
		if err == nil || !strings.Contains(err.Error(), "no usable position") {
			c.w.t.Errorf("ended with %v, want an error about the position", err)
		}
	case <-time.After(20 * time.Second):
		c.w.t.Fatal("a copy without a usable position goes on")
	}
}

// TestCausality: a record that was acknowledged before an event was sent is known when the event is judged.
func TestCausality(t *testing.T) {
	pairs := count("CAUSAL_PAIRS", 300)
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	w.start(Validation, nil).ready()
	for i := range pairs {
		number := fmt.Sprint("A-", i)
		w.reference(schemas.Accounts, &schemas.Account{ID: fmt.Sprintf("%032X", i), Number: number})
		w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Partition: int32(i) % partitions, Value: w.event(number), Headers: bare()})
	}
	for _, o := range w.awaitOutcomes(schemas.KindCustomerEvents, pairs) {
		if !o.processed {
			t.Fatalf("unprocessed: %+v", o.unprocessed.Reasons)
		}
		if want := epochs.ItemNumber(o.SourceTopic, o.SourcePartition, o.SourceOffset, partitions); o.event.Number != want {
			t.Errorf("number %d, want %d", o.event.Number, want)
		}
	}
}

// event is a web event of an account.
func (w *world) event(account string) []byte {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return w.encode(schemas.KindCustomerEvents, &schemas.CustomerEvent{
		Kind: schemas.EventWeb, Account: &schemas.AccountIdentifier{Number: &account}, Website: new("example.com"),
		EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: &now},
	})
}

// TestReferralIsUniqueHoweverTheParticipantIsNamed: by id in any case or by number, across a restart, and per tenant.
func TestReferralIsUniqueHoweverTheParticipantIsNamed(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC().Truncate(time.Millisecond)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	for i := range 3 {
		w.reference(schemas.Participants, &schemas.Participant{ID: fmt.Sprintf("%031dA", i), Number: fmt.Sprint(i)})
	}
	refer := func(referred schemas.ParticipantIdentifier) {
		w.produce(&kgo.Record{Topic: schemas.KindReferrals, Partition: schemas.Partition([]byte(tenant), partitions), Headers: bare(),
			Value: w.encode(schemas.KindReferrals, &schemas.Referral{
				Referred: &referred, ReferredBy: &schemas.ParticipantIdentifier{Number: new("0")},
				EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: &now},
			})})
	}
	first := w.start(Validation, nil).ready()
	refer(schemas.ParticipantIdentifier{Number: new("1")})
	refer(schemas.ParticipantIdentifier{ID: new(fmt.Sprintf("%031da", 1))})
	w.awaitOutcomes(schemas.KindReferrals, 2)
	first.stop()
	w.start(Validation, nil).ready()
	refer(schemas.ParticipantIdentifier{Number: new("1")})
	refer(schemas.ParticipantIdentifier{Number: new("2")})
	var got []string
	for _, o := range w.awaitOutcomes(schemas.KindReferrals, 4) {
		switch {
		case o.processed:
			got = append(got, o.referral.ReferredNumber)
		default:
			got = append(got, o.unprocessed.Reasons[0].Code)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1", "2", schemas.CodeAlreadyReferred, schemas.CodeAlreadyReferred}, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// TestMetricsTellWhatHappened reads them as Prometheus would.
func TestMetricsTellWhatHappened(t *testing.T) {
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	c := w.start(Validation, nil).ready()
	w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Value: w.event("nobody"), Headers: bare()},
		&kgo.Record{Topic: schemas.KindCustomerEvents, Value: []byte("?"), Headers: bare()})
	w.awaitOutcomes(schemas.KindCustomerEvents, 1)
	want := []string{
		`counterfoil_process_unprocessed_total{kind="customer_events",processor="validation"} 1`,
		`counterfoil_process_reasons_total{code="not_found",kind="customer_events",processor="validation"} 1`,
		`counterfoil_process_reasons_total{code="undecodable",kind="customer_events",processor="validation"} 1`,
		`counterfoil_process_dead_letters_total{kind="customer_events",processor="validation"} 1`,
		`counterfoil_process_takeover{partition="3",processor="validation",topic="referrals"} 0`,
		`counterfoil_process_lag_records{partition="0",processor="validation",topic="customer_events"} 0`,
		`counterfoil_process_rounds_total{end="committed",processor="validation"}`,
		`counterfoil_process_reference_barrier_wait_seconds_count{processor="validation",topic="accounts"}`,
		`counterfoil_process_reference_rows{processor="validation",topic="units"} 1`,
	}
	server := httptest.NewServer(promhttp.HandlerFor(c.deps.Metrics.(*prometheus.Registry), promhttp.HandlerOpts{}))
	defer server.Close()
	w.eventually("metrics", func() error {
		resp, err := http.Get(server.URL)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		for _, line := range want {
			if !strings.Contains(string(text), "\n"+line) {
				return errors.Join(err, fmt.Errorf("no %s", line))
			}
		}
		return err
	})
}
