package processors

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// grants returns n bare items over a few keys, each in the partition of its key.
func (w *world) grants(n, keys int) []*kgo.Record {
	var recs []*kgo.Record
	for i := range n {
		item, value := w.grant(fmt.Sprint("user-", i%keys), "sku")
		recs = append(recs, &kgo.Record{Topic: schemas.KindOwnership, Partition: schemas.Partition(upserts.Key(tenant, &item), partitions), Value: value, Headers: bare()})
	}
	return recs
}

// checkOnce fails where an item has more than one outcome, then compares all with the sequential model.
func (w *world) checkOnce(outcomes []outcome) {
	w.t.Helper()
	seen := map[string]bool{}
	for _, o := range outcomes {
		if seen[o.ID] {
			w.t.Fatalf("item %s has two outcomes", o.ID)
		}
		seen[o.ID] = true
	}
	w.checkSequential(outcomes)
}

// count reads an environment variable that makes a test longer.
func count(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return fallback
}

// TestCommitOfUnknownOutcome has the broker answer every third commit with an error that says nothing of its fate, which franz-go reports as
// (false, nil): one that was applied, and one that was not. Neither may double or lose an outcome.
func TestCommitOfUnknownOutcome(t *testing.T) {
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprintf("applied %t", applied), func(t *testing.T) {
			w := newWorld(t)
			if w.broker.Fake == nil {
				t.Skip("faults are injected into kfake")
			}
			side := w.newClient()
			var commits atomic.Int32
			w.broker.Fake.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.broker.Fake.KeepControl()
				end := req.(*kmsg.EndTxnRequest)
				if !end.Commit || !strings.HasPrefix(end.TransactionalID, "process-") || commits.Add(1)%3 != 0 {
					return nil, nil, false
				}
				if applied {
					// Another connection of "the same producer" gets the commit through; it passes this function as the next commit.
					again := *end
					w.broker.Fake.SleepControl(func() {
						if _, err := again.RequestWith(t.Context(), side); err != nil {
							t.Error(err)
						}
					})
				}
				answer := end.ResponseKind().(*kmsg.EndTxnResponse)
				answer.ErrorCode = kerr.UnknownServerError.Code
				return answer, nil, true
			})
			c := w.start(Upserts, func(c *Config) { c.RoundRecords = 50 }).ready()
			w.produce(w.grants(600, 20)...)
			w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 600))
			if counted(c.metrics.restarts) == 0 {
				t.Error("no session was started afresh: the fault did not happen")
			}
		})
	}
}

// TestOutageLongerThanTheSession cuts a copy off for longer than its session and its transactions last, in the middle of its work, while
// another takes over; then it comes back.
func TestOutageLongerThanTheSession(t *testing.T) {
	w := newWorld(t)
	first := w.start(Upserts, func(c *Config) { c.RoundRecords = 20 }).ready()
	w.produce(w.grants(1000, 30)...)
	first.network.cut()
	w.start(Upserts, nil)
	w.produce(w.grants(500, 30)...)
	w.awaitOutcomes(schemas.KindOwnership, 1500)
	time.Sleep(time.Second)
	first.network.mend()
	first.ready()
	w.produce(w.grants(500, 30)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 2000))
}

// TestHandOvers moves all partitions from copy to copy while items keep coming; the state must follow without losing the last round.
// HANDOVERS sets how often.
func TestHandOvers(t *testing.T) {
	w := newWorld(t)
	c := w.start(Upserts, nil).ready()
	ctx, end := context.WithCancel(t.Context())
	sent := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n += 20 {
			w.produce(w.grants(20, 8)...)
			time.Sleep(2 * time.Millisecond)
		}
		sent <- n
	}()
	for i := range count("HANDOVERS", 4) {
		next := w.start(Upserts, nil).ready()
		w.eventually("the next copy owns partitions", func() error {
			next.session.mu.Lock()
			defer next.session.mu.Unlock()
			if len(next.session.lanes) == 0 {
				return errors.New("none yet")
			}
			return nil
		})
		if i%4 == 3 {
			c.kill()
		} else if err := c.stop(); err != nil {
			t.Error(err)
		}
		c = next
	}
	end()
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, <-sent))
}

// TestRestoreWaitsForTheLastTransaction: what the predecessor wrote last may be undecided yet. A copy that took over without it would judge
// on an old state.
func TestRestoreWaitsForTheLastTransaction(t *testing.T) {
	w := newWorld(t)
	item, value := w.grant("ann", "sku")
	key := upserts.Key(tenant, &item)
	at := schemas.Partition(key, partitions)
	predecessor := w.newClient(kgo.TransactionalID("predecessor"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := predecessor.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	state := w.encode(schemas.StateTopic(schemas.KindOwnership), &schemas.OwnershipState{UserName: "ann", ProductSKU: "sku", Quantity: 41})
	if err := predecessor.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.StateTopic(schemas.KindOwnership), Partition: at, Key: key, Value: state}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	c := w.start(Upserts, nil)
	w.produce(&kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: value, Headers: bare()})
	w.produce(w.grantElsewhere(at))
	w.awaitOutcomes(schemas.KindOwnership, 1) // of the other partition: it is not held up
	if err := c.Ready(); err == nil {
		t.Error("ready before the state is whole")
	}
	if err := predecessor.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	c.ready()
	for _, o := range w.awaitOutcomes(schemas.KindOwnership, 2) {
		if o.SourcePartition == at && o.ownership.Quantity != 42 {
			t.Errorf("quantity %d, want 42", o.ownership.Quantity)
		}
	}
}

// TestRestoreReadsTheWholeChangelog: one of several fetches' length.
func TestRestoreReadsTheWholeChangelog(t *testing.T) {
	const keys = 20_000
	w := newWorld(t)
	topic := schemas.StateTopic(schemas.KindOwnership)
	var recs []*kgo.Record
	for i := range keys {
		noise := strings.ToLower(cryptorand.Text() + cryptorand.Text() + cryptorand.Text() + cryptorand.Text())
		recs = append(recs, &kgo.Record{Topic: topic, Partition: 1, Key: fmt.Append(nil, i),
			Value: w.encode(topic, &schemas.OwnershipState{UserName: noise, ProductSKU: noise, Quantity: 1})})
	}
	w.produce(recs...)
	c := w.start(Upserts, nil).ready()
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if got := c.session.lanes[place{schemas.KindOwnership, 1}].state.size(); got != keys {
		t.Errorf("%d keys, want %d", got, keys)
	}
}

// grantElsewhere is an item that belongs to another partition.
func (w *world) grantElsewhere(not int32) *kgo.Record {
	for i := 0; ; i++ {
		item, value := w.grant(fmt.Sprint("user-", i), "sku")
		if at := schemas.Partition(upserts.Key(tenant, &item), partitions); at != not {
			return &kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: value, Headers: bare()}
		}
	}
}

// TestBarrierWaitsForUndecidedRecords: a reference record whose transaction is not decided yet may have been acknowledged as far as this
// copy can know (Kafka writes the marker after its answer), so events wait for the decision.
func TestBarrierWaitsForUndecidedRecords(t *testing.T) {
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	c := w.start(Validation, nil).ready()
	writer := w.newClient(kgo.TransactionalID("writer"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	account := &schemas.Account{ID: "00000000000000000000000000000002", Number: "A"}
	if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.Accounts, Key: schemas.ReferenceKey(tenant, account.ID), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: w.encode(schemas.Accounts, account)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Value: w.event("A"), Headers: bare()})
	time.Sleep(300 * time.Millisecond)
	if n := c.sum(); n != 0 {
		t.Errorf("%d outcomes before the barrier could be passed", n)
	}
	if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if o := w.awaitOutcomes(schemas.KindCustomerEvents, 1)[0]; !o.processed {
		t.Errorf("unprocessed: %+v", o.unprocessed.Reasons)
	}
}

// TestWaitingRecordsSurviveACrash: what lies behind a record whose schema is awaited is not committed before it is judged.
func TestWaitingRecordsSurviveACrash(t *testing.T) {
	w := newWorld(t)
	w.registry.ConfirmAfter = time.Minute
	first := w.start(Upserts, nil).ready()
	recs := w.grants(20, 1) // one key, one partition
	at := recs[0].Partition
	unknown := &kgo.Record{Topic: schemas.KindOwnership, Partition: at, Value: []byte{0, 0, 0, 0x27, 0x0f, 1}, Headers: bare()}
	w.produce(slices.Concat(recs[:10], []*kgo.Record{unknown}, recs[10:])...)
	w.awaitOutcomes(schemas.KindOwnership, 10)
	other := w.grantElsewhere(at)
	w.produce(other) // another round commits beside the waiting partition
	w.awaitOutcomes(schemas.KindOwnership, 11)
	first.kill()
	w.registry.ConfirmAfter = 100 * time.Millisecond
	w.start(Upserts, nil)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 21))
	if letters := w.read(schemas.DeadLetters); len(letters) != 1 {
		t.Errorf("%d dead letters, want 1", len(letters))
	}
}

// TestMoreCopiesThanPartitions: a copy without partitions is ready.
func TestMoreCopiesThanPartitions(t *testing.T) {
	w := newWorld(t)
	var all []*copyOf
	for range partitions + 2 {
		all = append(all, w.start(Upserts, nil))
	}
	w.eventually("every copy is ready and some have nothing to do", func() error {
		owned := 0
		for _, c := range all {
			if err := c.Ready(); err != nil {
				return err
			}
			c.session.mu.Lock()
			owned += len(c.session.lanes)
			c.session.mu.Unlock()
		}
		if owned != partitions {
			return fmt.Errorf("%d partitions owned", owned)
		}
		return nil
	})
	w.produce(w.grants(100, 50)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 100))
}

// TestNothingIsJudgedWithoutItsBarrier: while the broker does not tell high watermarks, events wait.
func TestNothingIsJudgedWithoutItsBarrier(t *testing.T) {
	w := newWorld(t)
	if w.broker.Fake == nil {
		t.Skip("faults are injected into kfake")
	}
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	w.reference(schemas.Accounts, &schemas.Account{ID: "00000000000000000000000000000002", Number: "A"})
	c := w.start(Validation, nil).ready()
	var refuse atomic.Bool
	w.broker.Fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake.KeepControl()
		if refuse.Load() && req.(*kmsg.ListOffsetsRequest).Topics[0].Topic != schemas.ProcessedTopic(schemas.KindCustomerEvents) {
			return nil, errors.New("no answer"), true
		}
		return nil, nil, false
	})
	refuse.Store(true)
	w.produce(&kgo.Record{Topic: schemas.KindCustomerEvents, Value: w.event("A"), Headers: bare()})
	time.Sleep(500 * time.Millisecond)
	if n := c.sum(); n != 0 {
		t.Errorf("%d outcomes without a barrier", n)
	}
	refuse.Store(false)
	if o := w.awaitOutcomes(schemas.KindCustomerEvents, 1)[0]; !o.processed {
		t.Errorf("unprocessed: %+v", o.unprocessed.Reasons)
	}
}

// TestRecordLargerThanItsOutcomeMayBe comes packed, so that the broker takes it.
func TestRecordLargerThanItsOutcomeMayBe(t *testing.T) {
	w := newWorld(t)
	w.start(Upserts, nil).ready()
	big := w.newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	_, value := w.grant(strings.Repeat("u", 6<<20), "sku")
	rec := &kgo.Record{Topic: schemas.KindOwnership, Value: value, Headers: bare()}
	if err := big.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.produce(w.grants(20, 20)...)
	w.awaitOutcomes(schemas.KindOwnership, 20)
	letters := w.read(schemas.DeadLetters)
	if len(letters) != 1 {
		t.Fatalf("%d dead letters, want 1", len(letters))
	}
	got := decode[schemas.DeadLetter](w, schemas.DeadLetterSchema, letters[0].Value)
	if got.Reason.Code != schemas.CodeOutOfRange || got.Offset != rec.Offset || got.Value != nil {
		t.Errorf("dead letter is %+v, want %s without the value", got, schemas.CodeOutOfRange)
	}
}
