package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// exact waits until the log has all of the first n ownership changes, and checks that each is there once, then and a little later.
func (r *rig) exact(n int) {
	r.t.Helper()
	r.waitLong(60*time.Second, strconv.Itoa(n), "SELECT uniqExact(id) FROM {db}.ownership")
	r.counts(n)
	time.Sleep(100 * time.Millisecond)
	r.counts(n)
}

func (r *rig) counts(n int) {
	r.t.Helper()
	got := r.query("SELECT concat(toString(count()), ' ', toString(uniqExact(id)), ' ', toString(uniqExact(topic, epoch, partition, offset))) FROM {db}.ownership")
	if want := fmt.Sprintf("%d %d %d", n, n, n); got != want {
		r.t.Fatalf("rows, items, positions: %s, want %s", got, want)
	}
}

// flow produces ownership changes in small transactions, some of which are aborted, until stopped; it returns how many were committed.
func (r *rig) flow() (stop func() int) {
	var n atomic.Int64
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	client, err := kgo.NewClient(append(r.broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.TransactionalID("flow-"+r.t.Name()+strconv.FormatInt(time.Now().UnixNano(), 36)))...)
	must(r.t, err)
	go func() {
		defer close(done)
		defer client.Close()
		rng := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
		for ctx.Err() == nil {
			from := int(n.Load())
			to := from + 1 + rng.IntN(200)
			abort := rng.IntN(8) == 0
			if err := client.BeginTransaction(); err != nil {
				r.t.Error(err)
				return
			}
			if err := client.ProduceSync(context.Background(), r.ownerships(from, to)...).FirstErr(); err != nil {
				r.t.Error(err)
				return
			}
			if err := client.EndTransaction(context.Background(), kgo.TransactionEndTry(!abort)); err != nil {
				r.t.Error(err)
				return
			}
			if !abort {
				n.Store(int64(to))
			}
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
		}
	}()
	return func() int {
		cancel()
		<-done
		return int(n.Load())
	}
}

func TestMembersComeAndGo(t *testing.T) {
	r := newRig(t)
	long := func(s *Sink) { s.cfg.Lease = 10 * time.Second } // a busy machine is not late
	a := r.start(long)
	stop := r.flow()
	time.Sleep(500 * time.Millisecond)
	b := r.start(long)
	time.Sleep(time.Second)
	must(t, a.stop())
	time.Sleep(time.Second)
	c := r.start(long)
	time.Sleep(time.Second)
	must(t, b.stop())
	time.Sleep(500 * time.Millisecond)
	r.exact(stop())
	must(t, c.stop())
	for _, s := range []*running{a, b, c} {
		if n := s.counter(t, "late_inserts_refused_total"); n != 0 {
			t.Errorf("%v late inserts", n)
		}
	}
}

// Who releases its partitions is not waited for.
func TestReleasedIsTakenOverAtOnce(t *testing.T) {
	r := newRig(t)
	long := func(s *Sink) { s.cfg.Lease = time.Minute }
	a := r.start(long)
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	must(t, a.stop())
	start := time.Now()
	r.start(long)
	r.produce(r.ownerships(100, 200)...)
	r.exact(200)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the successor took %s", took)
	}
}

// A member that inserted, could not commit and died leaves rows behind that its successor asks for.
func TestTakeOverAsksTheTable(t *testing.T) {
	r := newRig(t)
	var dead atomic.Bool
	a := r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, _ string) error {
			if dead.Load() && (at == "before commit" || at == "before release") {
				return errors.New("no commit any more")
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	dead.Store(true)
	r.produce(r.ownerships(100, 200)...)
	r.wait("200", "SELECT count() FROM {db}.ownership")
	must(t, a.stop())
	start := time.Now()
	r.start(nil)
	r.produce(r.ownerships(200, 300)...)
	r.exact(300)
	if took := time.Since(start); took < sinkConfig().Lease {
		t.Errorf("the successor waited %s only, the lease is %s", took, sinkConfig().Lease)
	}
}

// The answer of an insert is lost: whether its rows are in is asked, not guessed.
func TestUnknownOutcome(t *testing.T) {
	for _, arrived := range []bool{true, false} {
		t.Run(fmt.Sprintf("arrived=%t", arrived), func(t *testing.T) {
			r := newRig(t)
			var lose atomic.Int64
			s := r.start(func(s *Sink) {
				s.hook = func(ctx context.Context, at, table string) error {
					if table != "ownership" || at != "after send" && at != "before send" {
						return nil
					}
					if (at == "after send") == arrived && lose.Add(-1) >= 0 {
						return errors.New("the line went dead")
					}
					return nil
				}
			})
			stop := r.flow()
			time.Sleep(300 * time.Millisecond)
			lose.Store(2)
			time.Sleep(time.Second)
			r.exact(stop())
			if n := s.counter(t, "unknown_outcomes_total"); arrived && n == 0 {
				t.Error("no unknown outcome was counted")
			}
		})
	}
}

// The connection breaks while the insert is under way.
func TestConnectionBreaksInTheMiddle(t *testing.T) {
	r := newRig(t)
	var kills atomic.Int64
	s := r.start(func(s *Sink) {
		s.hook = func(ctx context.Context, at, table string) error {
			if at == "before send" && table == "ownership" && kills.Add(-1) >= 0 {
				for _, d := range s.dests {
					if d.spec.name == table {
						s.mu.Lock()
						cancel := d.cancel
						s.mu.Unlock()
						time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, cancel)
					}
				}
			}
			return nil
		}
	})
	stop := r.flow()
	time.Sleep(300 * time.Millisecond)
	kills.Store(3)
	time.Sleep(2 * time.Second)
	r.exact(stop())
	_ = s
}

// A member that was held up for longer than its lease inserts too late, and the table refuses it.
func TestLateInsertIsRefused(t *testing.T) {
	r := newRig(t)
	var hold atomic.Int64
	s := r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, table string) error {
			if table == "ownership" && at == "before send" && hold.Add(-1) >= 0 {
				time.Sleep(s.cfg.Lease + 500*time.Millisecond)
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	hold.Store(1)
	r.produce(r.ownerships(100, 200)...)
	r.exact(200)
	if n := s.counter(t, "late_inserts_refused_total"); n == 0 { // a busy machine makes others late as well
		t.Error("no late insert was refused")
	}
}

// A table that refuses rows holds up its own partitions, and nothing of it is lost or doubled.
func TestTableThatRefuses(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	event := func(n int) *kgo.Record {
		e := fullEvent(rand.New(rand.NewPCG(1, uint64(n))))
		return &kgo.Record{Topic: "customer_events.processed", Partition: int32(n % partitions), Value: r.encode("customer_events.processed", e)}
	}
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("customer_events")+" ADD CONSTRAINT closed CHECK tenant = ''"))
	for n := range 50 {
		r.produce(event(n))
		time.Sleep(5 * time.Millisecond)
	}
	r.produce(r.ownerships(100, 300)...)
	r.exact(300)
	if got := r.query("SELECT count() FROM {db}.customer_events"); got != "0" {
		t.Fatalf("%s events got in", got)
	}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "customer_events") || strings.Contains(err.Error(), "closed") {
		t.Errorf("Ready: %v, want the name of the table, and no text of the server", err)
	}
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("customer_events")+" DROP CONSTRAINT closed"))
	r.wait("50", "SELECT uniqExact(id) FROM {db}.customer_events")
	for n := 50; n < 60; n++ {
		r.produce(event(n))
	}
	r.wait("60 60", "SELECT concat(toString(count()), ' ', toString(uniqExact(id))) FROM {db}.customer_events")
	must(t, s.Ready())
}

// Who asks whether the sink is ready is told what it lacks, and not where its parts are.
func TestReadinessNamesNoAddress(t *testing.T) {
	r := newRig(t)
	var down atomic.Bool
	s := r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, table string) error {
			if down.Load() && at == "before insert" && table == "ownership" {
				return errors.New("dial tcp 127.0.0.1:9000: connect: connection refused")
			}
			return nil
		}
	})
	r.produce(r.ownership(0))
	r.wait("1", "SELECT count() FROM {db}.ownership")
	for end := time.Now().Add(20 * time.Second); s.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(s.Ready())
		}
	}
	down.Store(true)
	r.produce(r.ownership(1))
	for end := time.Now().Add(20 * time.Second); s.Ready() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is ready while a table gets no rows")
		}
	}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "ownership") || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("ready says %v", err)
	}
	down.Store(false)
	r.exact(2)
}

// The very first record, at offset 0 of an empty table, is not taken for one that the table has.
func TestFirstRecordIsRefused(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("ownership")+" ADD CONSTRAINT closed CHECK tenant = ''"))
	r.produce(r.ownership(0))
	for end := time.Now().Add(20 * time.Second); s.counter(t, "insert_retries_total") == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the insert is not tried again")
		}
	}
	must(t, r.conn.any.Exec(t.Context(), "ALTER TABLE "+r.conn.table("ownership")+" DROP CONSTRAINT closed"))
	r.exact(1)
}

func TestReferencesAndDeadLetters(t *testing.T) {
	r := newRig(t)
	s := r.start(nil)
	account := func(id, number string) []byte {
		return r.encode(schemas.Accounts, &schemas.Account{ID: id, Number: number, PaymentMediumTypes: &[]string{"T"}})
	}
	r.produce(
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/A"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("A", "1")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/A"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("A", "2")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/B"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("B", "3")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("other/A"), Headers: []kgo.RecordHeader{schemas.TenantHeader("other")}, Value: account("A", "4")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/B"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/X"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("Y", "5")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/Z"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: []byte("nonsense")},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/Z"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: []byte{0, 0, 0, 99, 99, 1}},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/C"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("C", "6")},
		&kgo.Record{Topic: "ownership.processed", Value: []byte{0}, Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}}},
	)
	r.wait("A2,A4,C6", "SELECT arrayStringConcat(groupArray(x), ',') FROM (SELECT concat(id, number) AS x FROM {db}.accounts ORDER BY x)")
	r.wait("4", "SELECT count() FROM {db}.dead_letters")
	want := "accounts:acme:key_mismatch,accounts:acme:undecodable,accounts:acme:unknown_schema,ownership.processed:acme:undecodable"
	sql := "SELECT arrayStringConcat(groupArray(x), ',') FROM (SELECT concat(source_topic, ':', tenant, ':', reason_code) AS x FROM {db}.dead_letters ORDER BY x)"
	if got := r.query(sql); got != want {
		t.Errorf("dead letters %s, want %s", got, want)
	}
	// Those that the engines found come by the topic, to the same table.
	r.produce(&kgo.Record{Topic: schemas.DeadLetters, Value: r.encode(schemas.DeadLetters, &schemas.DeadLetter{
		Topic: "ownership", Partition: 1, Offset: 77, Value: new([]byte("x")), Headers: []schemas.Header{{Key: "k", Value: []byte("v")}},
		Reason: schemas.Reason{Code: schemas.CodeTenantMissing}, RecordedAt: time.Now(), At: time.Now()})})
	r.wait("ownership 77 ['k']", "SELECT concat(source_topic, ' ', toString(source_offset), ' ', toString(header_key)) FROM {db}.dead_letters WHERE tenant = ''")
	must(t, s.stop())
	// Nothing of it comes again, neither by a restart nor by reading everything again.
	r.rewind()
	r.start(nil)
	r.produce(&kgo.Record{Topic: schemas.Accounts, Key: []byte("acme/D"), Headers: []kgo.RecordHeader{schemas.TenantHeader("acme")}, Value: account("D", "7")})
	r.wait("4", "SELECT count() FROM {db}.accounts")
	if got := r.query("SELECT count() FROM {db}.dead_letters"); got != "5" {
		t.Errorf("%s dead letters after reading everything again", got)
	}
}

// rewind commits the start of every topic for the group, which nobody may be a member of.
func (r *rig) rewind() {
	r.t.Helper()
	r.commit(r.begin) // what lies before it on a shared broker is another test's
}

// The committed offset passes transaction markers, aborted records included: whoever waits for the sink to reach the end of a topic does.
func TestCommitReachesTheEnd(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.inTransaction(true, r.ownerships(0, 10)...)
	r.inTransaction(false, r.ownerships(10, 20)...)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ends, err := r.admin.ListEndOffsets(t.Context(), "ownership.processed")
		must(t, err)
		commits, err := r.admin.FetchOffsetsForTopics(t.Context(), schemas.GroupSink, "ownership.processed")
		must(t, err)
		behind := ""
		ends.Each(func(o kadm.ListedOffset) {
			if c, _ := commits.Lookup(o.Topic, o.Partition); c.At != o.Offset {
				behind = fmt.Sprintf("partition %d is committed to %d of %d", o.Partition, c.At, o.Offset)
			}
		})
		if behind == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(behind)
		}
	}
}

func TestMissingCommitIsAnError(t *testing.T) {
	r := newRig(t)
	_, err := r.admin.DeleteOffsets(t.Context(), schemas.GroupSink, kadm.TopicsSet{schemas.Units: {0: {}}})
	must(t, err)
	s := r.start(nil)
	select {
	case <-s.done:
		if err := s.err; err == nil || !strings.Contains(err.Error(), "counterfoil migrate") || !strings.Contains(err.Error(), "units/0") {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the sink goes on")
	}
}

// A member in a process of its own that is killed, and one that is stopped for longer than session and lease together.
func TestKilledAndStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	r := newRig(t)
	stop := r.flow()
	steady := r.start(nil)
	rng := rand.New(rand.NewPCG(11, 13))
	for round := range 4 {
		child := r.startChild(nil)
		time.Sleep(time.Second + time.Duration(rng.IntN(2000))*time.Millisecond)
		if round%2 == 0 {
			must(t, child.Process.Signal(syscall.SIGKILL))
			child.Wait()
			continue
		}
		must(t, child.Process.Signal(syscall.SIGSTOP))
		time.Sleep(sinkConfig().Session + sinkConfig().Lease + 500*time.Millisecond)
		must(t, child.Process.Signal(syscall.SIGCONT))
		time.Sleep(500 * time.Millisecond)
		must(t, child.Process.Signal(syscall.SIGTERM))
		child.Wait()
	}
	r.exact(stop())
	must(t, steady.stop())
}

// A member is expelled while its insert is on the way. Its successor waits until that can no longer get in, and finds it.
func TestTakeOverWaitsForInsertsOnTheWay(t *testing.T) {
	r := newRig(t)
	var held atomic.Bool
	sending := make(chan struct{})
	var gate atomic.Int64
	old := r.start(func(s *Sink) {
		s.hook = func(_ context.Context, at, table string) error {
			if table == "ownership" && at == "before send" && gate.Add(-1) == 0 {
				held.Store(true)
				close(sending)
				time.Sleep(s.cfg.Lease / 2)
			}
			return nil
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	gate.Store(1)
	r.produce(r.ownerships(100, 200)...)
	<-sending
	r.start(nil)
	r.expel(old)
	r.produce(r.ownerships(200, 300)...)
	r.exact(300)
	if !held.Load() {
		t.Error("no insert was held back")
	}
}

// expel has the group throw a member out that knows nothing of it.
func (r *rig) expel(s *running) {
	r.t.Helper()
	id := ""
	for range 100 { // it may not have begun
		s.decoding.Lock()
		if s.client != nil {
			id, _ = s.client.GroupMetadata()
		}
		s.decoding.Unlock()
		if id != "" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.throwOut(id)
}

// With INSTANCE set a restart takes its own partitions back; a second copy of the same name ends the first, which says why.
func TestInstance(t *testing.T) {
	r := newRig(t)
	named := func(s *Sink) { s.cfg.Instance = "one" }
	a := r.start(named)
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	must(t, a.stop())
	b := r.start(named)
	r.produce(r.ownerships(100, 200)...)
	r.exact(200)
	c := r.start(named)
	select {
	case <-b.done:
		if b.err == nil || !strings.Contains(b.err.Error(), "INSTANCE=one") {
			t.Errorf("the first copy ended with: %v", b.err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the first copy goes on")
	}
	r.produce(r.ownerships(200, 300)...)
	r.exact(300)
	must(t, c.stop())
}

// Members are expelled again and again, alone and beside another, and know nothing of it.
func TestExpelledMembers(t *testing.T) {
	r := newRig(t)
	a := r.start(nil)
	stop := r.flow()
	time.Sleep(500 * time.Millisecond)
	r.expel(a)
	time.Sleep(time.Second)
	b := r.start(nil)
	time.Sleep(time.Second)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 3 {
		r.expel([]*running{a, b}[rng.IntN(2)])
		time.Sleep(time.Duration(500+rng.IntN(3000)) * time.Millisecond)
	}
	r.exact(stop())
	must(t, a.stop())
	must(t, b.stop())
}

// A process is stopped with a lease in hand, just before it begins its insert, is expelled, and goes on before its lease is over: the table
// takes the insert. Its successor has waited for that, and finds the rows.
func TestTakeOverWaitsForTheLease(t *testing.T) {
	r := newRig(t)
	const long, session = 8 * time.Second, time.Second
	r.produce(r.ownerships(0, 100)...)
	child := r.startChild(func(c *childConfig) { c.Sink.Lease, c.Sink.Session, c.StopAt = long, session, "begun" })
	stopped := func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid))
		_, after, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(after, "T")
	}
	for end := time.Now().Add(20 * time.Second); !stopped(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the process does not come to its insert")
		}
	}
	at := time.Now()
	next := r.start(func(s *Sink) { s.cfg.Lease, s.cfg.Session = long, session })
	r.produce(r.ownerships(100, 200)...)
	for end := at.Add(long / 2); !next.owns() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	time.Sleep(500 * time.Millisecond) // a successor that does not wait has inserted by now
	must(t, child.Process.Signal(syscall.SIGCONT))
	r.exact(200)
}

// owns reports whether partitions are assigned.
func (s *running) owns() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts) > 0
}

// Connections to ClickHouse fall silent in the middle of an insert, and later all idle ones: nobody waits for ever.
func TestSilentConnection(t *testing.T) {
	r := newRig(t)
	line := startProxy(t, r.cfg.Hosts[0])
	cfg := r.cfg
	cfg.Hosts = []string{line.addr}
	conn, err := Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	rows := 0
	for _, arrived := range []bool{false, true} {
		t.Run(fmt.Sprintf("arrived=%t", arrived), func(t *testing.T) {
			var gate atomic.Int64
			s := r.start(func(s *Sink) {
				s.conn, s.clock = conn, conn.now
				s.hook = func(_ context.Context, at, table string) error {
					if table == "ownership" && at == "before send" && gate.Add(-1) == 0 {
						if arrived {
							time.AfterFunc(2*time.Millisecond, line.silence)
						} else {
							line.silence()
						}
					}
					return nil
				}
			})
			r.produce(r.ownerships(rows, rows+100)...)
			r.exact(rows + 100)
			gate.Store(1)
			r.produce(r.ownerships(rows+100, rows+200)...)
			rows += 200
			r.exact(rows)
			must(t, s.stop())
		})
	}
	s := r.start(func(s *Sink) { s.conn, s.clock = conn, conn.now })
	r.produce(r.ownerships(rows, rows+100)...)
	r.exact(rows + 100)
	line.silence()
	r.produce(r.ownerships(rows+100, rows+200)...)
	r.exact(rows + 200)
	must(t, s.stop())
}

// ClickHouse's clock is set back: no lease is taken by the earlier time, and when the clock has caught up all goes on.
func TestClockGoesBack(t *testing.T) {
	r := newRig(t)
	var back atomic.Int64
	s := r.start(func(s *Sink) {
		s.clock = func(ctx context.Context) (time.Time, error) {
			now, err := r.conn.now(ctx)
			return now.Add(-time.Duration(back.Load())), err
		}
	})
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	must(t, s.commitMu.lock(t.Context()))
	back.Store(int64(4 * time.Second))
	last := s.asked
	s.commitMu.unlock()
	r.produce(r.ownerships(100, 200)...)
	for end := time.Now().Add(20 * time.Second); s.counter(t, "clock_backwards_total") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is counted")
		}
	}
	s.mu.Lock()
	until := s.lease.until
	s.mu.Unlock()
	if limit := last.Add(s.cfg.Lease); until.After(limit) {
		t.Errorf("the lease ends at %s, the last one before the clock went back at %s", until, limit)
	}
	must(t, s.commitMu.lock(t.Context()))
	asked := s.asked
	s.commitMu.unlock()
	if asked.Before(last) {
		t.Errorf("a lease was taken at %s, after one at %s", asked, last)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		renewed := s.lease.until.After(last.Add(s.cfg.Lease))
		s.mu.Unlock()
		if renewed {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no lease is taken when the clock has caught up")
		}
	}
	back.Store(0) // the tables compare with the true time
	r.produce(r.ownerships(200, 300)...)
	r.exact(300)
	must(t, s.stop())
}

// Kafka is gone, or takes requests and answers none: the sink ends all the same, within the time for its rows and its release.
func TestEndsWithoutKafka(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent=%t", silent), func(t *testing.T) {
			r := newRig(t)
			if r.broker.Fake == nil {
				t.Skip("the broker is not ours to stop")
			}
			lines := map[string]*silencer{}
			for _, addr := range r.broker.Addrs {
				lines[addr] = startProxy(t, addr)
			}
			s := r.start(func(s *Sink) {
				s.cfg.Lease = 4 * time.Second
				s.deps.Kafka = append(s.deps.Kafka, kgo.Dialer(func(ctx context.Context, _, addr string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", lines[addr].addr)
				}))
			})
			r.produce(r.ownerships(0, 100)...)
			r.wait("100", "SELECT count() FROM {db}.ownership")
			if silent {
				for _, line := range lines {
					line.deaf.Store(true)
					line.silence()
				}
			} else {
				r.broker.Fake.Close()
			}
			time.Sleep(2 * time.Second)
			start := time.Now()
			must(t, s.stop())
			took, limit := time.Since(start), 2*s.drainWait()+leaveWait+2*time.Second
			if t.Logf("Run returned after %s", took); took > limit {
				t.Errorf("Run returned after %s, the limit is %s", took, limit)
			}
		})
	}
}
