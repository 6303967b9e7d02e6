package processors

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestCausalityOfTransactions: an account is written in a transaction of its own, as ingest writes, and an event names it as soon as the commit
// is answered. The end of the committed records lies before the account at that moment where another writer's transaction is open before it,
// and on Apache Kafka now and then without that, because it writes markers after its answer.
func TestCausalityOfTransactions(t *testing.T) {
	w := newWorld(t)
	w.reference(schemas.Units, &schemas.Unit{ID: "00000000000000000000000000000001", Name: "Unit"})
	w.start(Validation, nil).ready()
	writer := w.newClient(kgo.TransactionalID("writer"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	// Neither lingers: the shorter the way of the event, the sharper the test.
	events := w.newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	pairs := count("CAUSAL_PAIRS", 300)
	other := w.newClient(kgo.TransactionalID("other"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	write := func(cl *kgo.Client, account *schemas.Account) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		rec := &kgo.Record{Topic: schemas.Accounts, Key: schemas.ReferenceKey(tenant, account.ID), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: w.encode(schemas.Accounts, account)}
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(cl *kgo.Client) {
		t.Helper()
		if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pairs {
		overlaps := i%10 == 0
		if overlaps {
			write(other, &schemas.Account{ID: strings.Repeat("F", 32), Number: "other"})
		}
		account := &schemas.Account{ID: fmt.Sprintf("%032X", i), Number: fmt.Sprint("A-", i)}
		write(writer, account)
		commit(writer)
		event := &kgo.Record{Topic: schemas.KindCustomerEvents, Partition: int32(i) % partitions, Value: w.event(account.Number), Headers: bare()}
		if err := events.ProduceSync(t.Context(), event).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if overlaps {
			time.Sleep(50 * time.Millisecond) // long enough for the event to be judged, were it not to wait
			commit(other)
		}
	}
	missed := 0
	for _, o := range w.awaitOutcomes(schemas.KindCustomerEvents, pairs) {
		if !o.processed {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("%d of %d events did not see the account that was written before them", missed, pairs)
	}
}
