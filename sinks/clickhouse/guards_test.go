package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Kafka takes no commits for longer than a lease, as in a long rebalance. Rows that come meanwhile wait: none is sent without a lease for the
// table to refuse, and none is thrown away.
func TestRowsWaitForALease(t *testing.T) {
	r := newRig(t)
	var refused atomic.Bool
	s := r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, _ string) error {
			if at == "before commit" && refused.Load() {
				return errors.New("a rebalance is under way")
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	refused.Store(true)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		over := !s.lease.fits(time.Now(), 0)
		s.mu.Unlock()
		if over {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the lease is renewed without a commit")
		}
	}
	for from := 100; from < 200; from += 20 { // several blocks
		r.produce(r.ownerships(from, from+20)...)
		time.Sleep(100 * time.Millisecond)
	}
	if n := s.counter(t, "late_inserts_refused_total"); n != 0 {
		t.Errorf("%v inserts were sent without a lease", n)
	}
	refused.Store(false)
	r.exact(200)
}

// slowInsert makes a row of the log at a position, by an INSERT that is at work for so long before its row gets in. It has begun when
// slowInsert returns; the channel is closed at its end.
func (r *rig) slowInsert(id string, rec *kgo.Record, takes time.Duration) <-chan struct{} {
	r.t.Helper()
	done := make(chan struct{})
	ctx := ch.Context(context.Background(), ch.WithQueryID(id), ch.WithSettings(ch.Settings{"function_sleep_max_microseconds_per_block": 60_000_000}))
	go func() {
		defer close(done)
		err := r.conn.any.Exec(ctx, fmt.Sprintf("INSERT INTO %s (topic, epoch, partition, offset, write_by, tenant, id) "+
			"SELECT '%s', 0, %d, %d, now64(3, 'UTC') + INTERVAL 1 HOUR, 'acme', 'slow' FROM numbers(1) WHERE sleepEachRow(%f) = 0",
			r.conn.local("ownership"), rec.Topic, rec.Partition, rec.Offset, takes.Seconds()))
		if err != nil {
			r.t.Errorf("the slow insert: %v", err)
		}
	}()
	r.wait("1", "SELECT count() FROM system.processes WHERE query_id = '"+id+"'")
	return done
}

// A member is gone that held a partition, and its last INSERT is past the constraint and still at work when its lease is over: whoever takes
// over waits for it, and finds its row.
func TestTakeOverWaitsForInsertsAtWork(t *testing.T) {
	r := newRig(t)
	rec := r.ownership(0)
	r.produce(rec)
	held := kadm.Offsets{}
	r.begin.Each(func(o kadm.Offset) {
		o.Metadata = metaHeld
		held.Add(o)
	})
	r.commit(held)
	done := r.slowInsert("counterfoil-sink/"+r.cfg.Database+".ownership/of-the-dead", rec, 2*sinkConfig().Lease+time.Second)
	s := r.start(nil)
	<-done
	for end := time.Now().Add(20 * time.Second); s.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(s.Ready())
		}
	}
	r.committed(rec.Topic)
	if got := r.query("SELECT count() FROM {db}.ownership"); got != "1" {
		t.Errorf("%s rows of one record", got)
	}
}

// Whether an INSERT without an answer got its rows in is asked when that can no longer change: it may not have begun yet, and then write_by has
// to pass; and what has begun may be at work for longer.
func TestUnknownOutcomeIsAskedWhenItIsDecided(t *testing.T) {
	for _, test := range []struct {
		name          string
		begins, takes time.Duration
		limit         time.Duration // until write_by
		result        outcome
	}{
		{name: "it is at work beyond write_by", takes: 2 * time.Second, limit: 0, result: unknown},
		{name: "it has not begun", begins: time.Second, takes: time.Second, limit: 3 * time.Second, result: unknown},
		{name: "ClickHouse answered with an error, and it is at work", takes: 2 * time.Second, limit: time.Minute, result: ended},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			s := r.start(nil)
			d := s.dests[slices.IndexFunc(s.dests, func(d *dest) bool { return d.spec.name == "ownership" })]
			rec := r.ownership(0)
			rec.Offset = 1_000_000 // of a record that the sink does not read meanwhile
			var p *part
			for end := time.Now().Add(20 * time.Second); p == nil; time.Sleep(10 * time.Millisecond) {
				s.mu.Lock()
				p = s.parts[topicPartition{rec.Topic, rec.Partition}]
				s.mu.Unlock()
				if time.Now().After(end) {
					t.Fatal("the partition is not assigned")
				}
			}
			f, err := newFill(d.spec, &s.cfg, r.registry)
			must(t, err)
			for {
				if _, err = f.add(rec, p); !errors.Is(err, schemas.ErrSchemaPending) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			must(t, err)
			id := d.queryID()
			now, err := r.conn.now(t.Context())
			must(t, err)
			slow := make(chan (<-chan struct{}), 1)
			insert := func() { slow <- r.slowInsert(id, rec, test.takes) }
			if test.begins > 0 {
				time.AfterFunc(test.begins, insert)
			} else {
				insert()
			}
			there, err := d.resolve(f, id, now.Add(test.limit), test.result)
			must(t, err)
			<-<-slow
			if !there {
				t.Error("the rows were called absent before that was decided")
			}
		})
	}
}

// A partition is lost between the moment at which its position was taken for a commit and the one at which the request is made. Kafka would
// take it, because it looks at the generation and not at who owns the partition.
func TestNothingIsCommittedOfALostPartition(t *testing.T) {
	r := newRig(t)
	lost := topicPartition{"ownership.processed", 0}
	var armed, seen, gone atomic.Bool
	s := r.start(func(s *Sink) {
		clock := s.clock
		s.clock = func(ctx context.Context) (time.Time, error) {
			if armed.Load() && !gone.Load() {
				s.mu.Lock()
				p := s.parts[lost]
				ahead := p != nil && p.flushed() > p.committed
				s.mu.Unlock()
				if ahead && !seen.Swap(true) {
					return time.Time{}, errors.New("no answer") // the next commit has the new position for certain
				}
				if ahead {
					gone.Store(true)
					s.lost(ctx, s.client, map[string][]int32{lost.topic: {lost.partition}})
				}
			}
			return clock(ctx)
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.committed(lost.topic)
	before := r.positions(lost.topic)
	armed.Store(true)
	r.produce(r.ownerships(100, 200)...)
	moved := func() bool {
		for partition, at := range r.positions(lost.topic) {
			if partition != lost.partition && at == before[partition] {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(20 * time.Second); !moved(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the other partitions are not committed")
		}
	}
	if !gone.Load() {
		t.Fatal("the partition was not lost in the middle of a commit: the test shows nothing")
	}
	if at := r.positions(lost.topic)[lost.partition]; at != before[lost.partition] {
		t.Errorf("the lost partition was committed from %d to %d", before[lost.partition], at)
	}
	if n := s.counter(t, "commits_refused_total"); n == 0 {
		t.Error("no commit was refused")
	}
}

// A member that was thrown out, and let in again under another id without that anybody said so, holds partitions of its former self. It commits
// none of them, and begins anew.
func TestNothingIsCommittedUnderAnotherMemberID(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	r.produce(r.ownerships(0, 100)...)
	r.committed("ownership.processed")
	s.mu.Lock()
	s.parts[topicPartition{"ownership.processed", 0}].member = "its former self"
	s.mu.Unlock()
	r.produce(r.ownerships(100, 200)...)
	for end := time.Now().Add(20 * time.Second); s.counter(t, "expulsions_total") == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it goes on")
		}
	}
	r.exact(200)
}

// positions are the sink's commits of a topic, by partition.
func (r *rig) positions(topic string) map[int32]int64 {
	r.t.Helper()
	commits, err := r.admin.FetchOffsetsForTopics(r.t.Context(), schemas.GroupSink, topic)
	must(r.t, err)
	at := map[int32]int64{}
	commits.Each(func(o kadm.OffsetResponse) { at[o.Partition] = o.At })
	return at
}

// Two tenants have everything alike, as nothing but chance keeps batch keys apart: each report has the rows of the tenant that asks.
func TestReportsHaveTheRowsOfOneTenant(t *testing.T) {
	conn := migrated(t)
	insert := func(table, columns string, values ...any) {
		t.Helper()
		if _, log := values[0].(time.Time); log {
			columns = "write_by, " + columns
		}
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")
		must(t, conn.any.Exec(t.Context(), "INSERT INTO "+conn.local(table)+" ("+columns+") VALUES ("+marks+")", values...))
	}
	late, day := time.Now().Add(time.Hour), time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	tenants := []string{"acme", "other"}
	for i, tenant := range tenants {
		insert("batches", "tenant, number, key, kind, door, items", late, tenant, 7, "k", schemas.KindCustomerEvents, "crm.com", 4)
		insert("customer_events", "topic, tenant, id, batch, `index`, attempt, kind", late, "customer_events.processed", tenant, tenant+" good", "k", i, 1, "web")
		insert("unprocessed", "topic, tenant, id, batch, `index`, attempt, kind, reason_code, reason_field, reason_value, reason_message", late, "customer_events.unprocessed",
			tenant, tenant+" bad", "k", 2+i, 1, schemas.KindCustomerEvents, []string{"missing"}, []string{"unit"}, []*string{nil}, []string{"m"})
		insert("ownership_state", "tenant, user_key, sku_key, user_name, product_sku, quantity, version", tenant, tenant, "app", tenant, "app", 1, 1)
		insert("customers_state", "tenant, version, id, account_number", tenant, 1+i, 1+i, "A")
		insert("order_lines_by_customer_state", "tenant, version, id, customer, product, quantity, ordered_on", tenant, 1, "L", 1+i, tenant, decimal.New(1, 0), day)
	}
	reports, ctx := conn.Reports(), t.Context()
	for i, tenant := range tenants {
		batch := schemas.BatchReport{Number: 7, Key: "k", Tenant: tenant, Kind: schemas.KindCustomerEvents, Door: "crm.com", Items: 4, Processed: 1, Unprocessed: 1, AcceptedAt: time.Unix(0, 0).UTC()}
		same := func(report string, want, got any, err error) {
			t.Helper()
			must(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", report, tenant, diff)
			}
		}
		one, err := reports.Batch(ctx, tenant, 7)
		same("Batch", &batch, one, err)
		all, err := reports.Batches(ctx, tenant, 0, 10)
		same("Batches", []schemas.BatchReport{batch}, all, err)
		all, err = reports.DoorBatches(ctx, tenant, "crm.com", 0, 10)
		same("DoorBatches", []schemas.BatchReport{batch}, all, err)
		reasons := []schemas.Reason{{Code: "missing", Field: "unit", Message: "m"}}
		items, err := reports.BatchItems(ctx, tenant, schemas.KindCustomerEvents, "k", true, -1, 10)
		same("BatchItems", []schemas.ItemReport{{Index: int32(i), ID: tenant + " good"}}, items, err)
		items, err = reports.BatchItems(ctx, tenant, schemas.KindCustomerEvents, "k", false, -1, 10)
		same("BatchItems", []schemas.ItemReport{{Index: int32(2 + i), ID: tenant + " bad", Reasons: reasons}}, items, err)
		outcomes, err := reports.BatchOutcomes(ctx, tenant, schemas.KindCustomerEvents, "k")
		var indexes []int32
		for _, o := range outcomes {
			indexes = append(indexes, o.Index)
		}
		same("BatchOutcomes", []int32{int32(i), int32(2 + i)}, indexes, err)
		owners, err := reports.Ownership(ctx, tenant, "app")
		same("Ownership", []schemas.OwnershipReport{{UserName: tenant, ProductSKU: "app", Quantity: 1}}, owners, err)
		bought, err := reports.BuyingReport(ctx, schemas.BuyingReportParams{Tenant: tenant, AccountNo: "A", BasedOn: schemas.BasedOnOrders, MonthsBack: 1, Today: day})
		same("BuyingReport", []schemas.BuyingReportItem{{Code: tenant, Qty: 1}}, bought, err)
	}
}
