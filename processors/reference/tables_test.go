package reference

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { stack.Main(m) }

// world is a broker of its own with two reference topics, and tables of them.
type world struct {
	t        *testing.T
	broker   *stack.Broker
	registry *schemas.Registry
	client   *kgo.Client
	tables   *Tables
}

// refuse is a rule beyond the schema.
func refuse(_ string, record any) []schemas.Reason {
	if a, ok := record.(*schemas.Account); ok && a.Number == "refused" {
		return []schemas.Reason{{Code: schemas.CodeInvalid, Field: "number", Message: "is refused."}}
	}
	return nil
}

func newWorld(t *testing.T, topics ...string) *world {
	t.Helper()
	w := &world{t: t, broker: stack.Fake(t)}
	var err error
	if w.registry, err = w.newRegistry(stack.FakeRegistry(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.registry.Register(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		w.broker.CreateTopic(t, topic, 1, "cleanup.policy", "compact")
	}
	if w.client, err = kgo.NewClient(append(w.broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("writer"))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	w.tables, err = New(topics, Deps{Kafka: w.broker.Opts(), Registry: w.registry, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Role: "test", Check: refuse})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.tables.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

func (w *world) newRegistry(url string) (*schemas.Registry, error) {
	return schemas.NewRegistry(schemas.RegistryConfig{URL: []string{url}, ConfirmAfter: 200 * time.Millisecond, RememberFor: time.Minute}, slog.New(slog.DiscardHandler))
}

func (w *world) encode(topic string, v any) []byte {
	w.t.Helper()
	e, err := w.registry.Encoder(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := e.Append(nil, v)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) begin() {
	w.t.Helper()
	if err := w.client.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(recs ...*kgo.Record) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), recs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end(how kgo.TransactionEndTry) {
	w.t.Helper()
	if err := w.client.EndTransaction(w.t.Context(), how); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) account(tenant, id, number string) *kgo.Record {
	return &kgo.Record{Topic: schemas.Accounts, Key: schemas.ReferenceKey(tenant, id), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: w.encode(schemas.Accounts, &schemas.Account{ID: id, Number: number})}
}

func (w *world) wait(topics ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	if err := w.tables.WaitFor(ctx, topics); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) number(tenant, number string) bool {
	v := w.tables.Hold()
	defer v.Release()
	return v.Account(tenant, "number", number) != nil
}

func TestBarrierPassesAcknowledgedRecords(t *testing.T) {
	w := newWorld(t, schemas.Accounts, schemas.Units)
	w.wait(schemas.Accounts, schemas.Units) // empty topics
	w.begin()
	w.write(w.account("t", "1", "A"))
	w.end(kgo.TryCommit)
	w.wait(schemas.Accounts, schemas.Units)
	if !w.number("t", "A") {
		t.Error("an acknowledged record is not there")
	}
	w.begin()
	w.write(w.account("t", "2", "B"))
	w.end(kgo.TryAbort)
	w.wait(schemas.Accounts) // the topic ends with an aborted record and its marker
	if w.number("t", "B") {
		t.Error("an aborted record is there")
	}
	if err := w.tables.Ready(); err != nil {
		t.Error(err)
	}
}

// TestBarrierDoesNotPassUndecidedRecords fails with a barrier on the end of the committed records.
func TestBarrierDoesNotPassUndecidedRecords(t *testing.T) {
	w := newWorld(t, schemas.Accounts)
	w.begin()
	w.write(w.account("t", "1", "A"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := w.tables.WaitFor(ctx, []string{schemas.Accounts}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the barrier returned %v while a record was undecided", err)
	}
	w.end(kgo.TryCommit)
	w.wait(schemas.Accounts)
	if !w.number("t", "A") {
		t.Error("the record is not there")
	}
}

func TestBadRecordsAreSkipped(t *testing.T) {
	w := newWorld(t, schemas.Accounts)
	good := w.account("t", "1", "A")
	w.begin()
	w.write(
		good,
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("t/2"), Headers: []kgo.RecordHeader{schemas.TenantHeader("t")}, Value: good.Value},                   // key mismatch
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("1"), Value: good.Value},                                                                             // no tenant
		&kgo.Record{Topic: schemas.Accounts, Value: good.Value},                                                                                               // no key
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("t/1"), Headers: []kgo.RecordHeader{schemas.TenantHeader("t")}, Value: []byte("?")},                  // not Avro
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("t/1"), Headers: []kgo.RecordHeader{schemas.TenantHeader("t")}, Value: []byte{0, 0, 0, 0x27, 15, 1}}, // a schema that nobody registered
		w.account("t", "3", "C"),
		w.account("t", "3", "refused"),
	)
	w.end(kgo.TryCommit)
	w.wait(schemas.Accounts)
	for number, want := range map[string]bool{"A": true, "C": true, "refused": false} {
		if w.number("t", number) != want {
			t.Errorf("account %s found: %t, want %t", number, !want, want)
		}
	}
	w.begin()
	w.write(&kgo.Record{Topic: schemas.Accounts, Key: []byte("t/1"), Headers: []kgo.RecordHeader{schemas.TenantHeader("t")}})
	w.end(kgo.TryCommit)
	w.wait(schemas.Accounts)
	if w.number("t", "A") {
		t.Error("a null value did not delete")
	}
}

// TestViewDoesNotMove: what a round sees does not change under it.
func TestViewDoesNotMove(t *testing.T) {
	w := newWorld(t, schemas.Accounts)
	w.wait(schemas.Accounts)
	view := w.tables.Hold()
	w.begin()
	w.write(w.account("t", "1", "A"))
	w.end(kgo.TryCommit)
	time.Sleep(100 * time.Millisecond)
	if view.Account("t", "number", "A") != nil {
		t.Error("a held view changed")
	}
	view.Release()
	w.wait(schemas.Accounts)
	if !w.number("t", "A") {
		t.Error("the record is not there after the view was released")
	}
}

func TestKeysAreFoundWithoutTenant(t *testing.T) {
	w := newWorld(t, schemas.APIKeys)
	w.begin()
	w.write(&kgo.Record{Topic: schemas.APIKeys, Key: schemas.ReferenceKey("t", "aBcDeF"), Headers: []kgo.RecordHeader{schemas.TenantHeader("t")},
		Value: w.encode(schemas.APIKeys, &schemas.APIKey{ID: "aBcDeF", Tenant: "t", SecretHash: []byte{1}, Enabled: true, CreatedAt: time.Now()})})
	w.end(kgo.TryCommit)
	w.wait(schemas.APIKeys)
	if k := w.tables.APIKey("aBcDeF"); k == nil || k.Tenant != "t" {
		t.Errorf("key is %+v", k)
	}
	if k := w.tables.APIKey("abcdef"); k != nil {
		t.Error("key ids must be compared with regard to case")
	}
}

func TestOtherTopicsAreRefused(t *testing.T) {
	_, err := New([]string{schemas.Batches}, Deps{Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Error("batches was taken for a reference topic")
	}
}
