package clickhouse

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// A zombie is a member that the group has thrown out and that knows nothing of it, while bytes of its last insert lie somewhere on the way:
// to ClickHouse it looks like a process that was stopped, or a network that held a packet up.

// gate forwards connections to ClickHouse and holds back, while it is closed, what clients send.
type gate struct {
	addr   string
	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
}

func newGate(t testing.TB, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	g := &gate{addr: l.Addr().String(), opened: make(chan struct{})}
	close(g.opened)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go g.forward(client, to)
		}
	}()
	return g
}

// forward ends each connection in good order, also when the client broke it off: the embedded engine aborts when a connection is reset.
func (g *gate) forward(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := client.Read(b)
			<-g.wait()
			if _, werr := server.Write(b[:n]); err != nil || werr != nil {
				server.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}()
	io.Copy(client, server)
	io.Copy(io.Discard, server)
}

func (g *gate) wait() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

// line is the zombie's way to Kafka, until it is cut.
type line struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (n *line) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		c.Close()
		return nil, errors.New("the line is cut")
	}
	n.conns = append(n.conns, c)
	return c, nil
}

func (n *line) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	for _, c := range n.conns {
		c.Close()
	}
}

// zombie starts a member that inserts the first 100 ownership changes, holds its next insert, of another 100, back on the way, and is thrown
// out. The gate lets the insert go on.
func (r *rig) zombie(lease time.Duration, with ...func(*Sink)) (*running, *gate) {
	r.t.Helper()
	g, n := newGate(r.t, r.cfg.Hosts[0]), &line{}
	cfg := r.cfg
	cfg.Hosts = []string{g.addr}
	conn, err := Open(r.t.Context(), cfg)
	must(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	r.t.Cleanup(g.open)
	s := r.start(func(s *Sink) {
		s.cfg.Lease = lease
		s.conn = conn
		s.deps.Kafka = append(s.deps.Kafka, kgo.Dialer(n.dial))
		for _, set := range with {
			set(s)
		}
	})
	r.t.Cleanup(n.cut)
	r.produce(r.ownerships(0, 100)...)
	r.wait("100", "SELECT count() FROM {db}.ownership")
	id, _ := s.client.GroupMetadata()
	g.close()
	r.produce(r.ownerships(100, 200)...)
	for end := time.Now().Add(lease); !s.inserting("ownership"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("no insert is on the way")
		}
	}
	n.cut()
	r.throwOut(id)
	return s, g
}

// inserting reports whether an insert into a table is on the way.
func (s *running) inserting(table string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dests {
		if d.spec.name == table && d.cancel != nil {
			return true
		}
	}
	return false
}

// An insert that arrives after the lease of its member is refused by the table itself: its successor has inserted the same rows by then.
func TestInsertOfAZombieIsRefusedByTheTable(t *testing.T) {
	r := newRig(t)
	lease := 6 * time.Second
	old, g := r.zombie(lease, func(s *Sink) { s.answerWait = 30 * time.Second }) // it must not give up before its successor is done
	r.start(func(s *Sink) { s.cfg.Lease = lease })
	r.waitLong(30*time.Second, "200", "SELECT count() FROM {db}.ownership") // by the successor
	g.open()
	for end := time.Now().Add(20 * time.Second); old.inserting("ownership"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the insert of the zombie does not end")
		}
	}
	r.counts(200)
	if n := old.counter(t, "late_inserts_refused_total"); n == 0 {
		t.Error("the zombie's insert did not reach the table: the test shows nothing")
	}
}

// A successor waits for the lease of the member before it: until then an insert may still get in, and then the table has what it would insert
// again.
func TestSuccessorOfAZombieWaitsForItsLease(t *testing.T) {
	r := newRig(t)
	lease := 8 * time.Second
	old, g := r.zombie(lease)
	r.start(func(s *Sink) { s.cfg.Lease = lease })
	// The zombie's insert gets in when a successor that does not wait has inserted the rows, or else after a while.
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r.query("SELECT count() FROM {db}.ownership") != "100" {
			break
		}
	}
	g.open()
	for end := time.Now().Add(20 * time.Second); old.inserting("ownership"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the insert of the zombie does not end")
		}
	}
	if n := old.counter(t, "late_inserts_refused_total"); n != 0 {
		t.Error("the zombie's insert came too late: the test shows nothing")
	}
	r.exact(200)
}

// throwOut has the group forget a member.
func (r *rig) throwOut(id string) {
	r.t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = schemas.GroupSink, id
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = id
	req.Members = append(req.Members, member)
	resp, err := req.RequestWith(r.t.Context(), r.client)
	must(r.t, err)
	must(r.t, kerr.ErrorForCode(resp.ErrorCode))
}
