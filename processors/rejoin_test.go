package processors

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
)

// still is a network that can stand still: nothing is read and nothing is written, as of a process that is stopped.
type still struct {
	mu      sync.Mutex
	running chan struct{} // closed while it runs
	slow    atomic.Bool   // answers to fetches come half a second later than those to the group
}

func newStill() *still { s := &still{running: make(chan struct{})}; close(s.running); return s }

func (s *still) wait() {
	s.mu.Lock()
	c := s.running
	s.mu.Unlock()
	<-c
}

func (s *still) stop() { s.mu.Lock(); s.running = make(chan struct{}); s.mu.Unlock() }
func (s *still) goOn() { s.mu.Lock(); close(s.running); s.mu.Unlock() }

type stillConn struct {
	net.Conn
	s       *still
	fetches atomic.Bool
}

func (c *stillConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.s.wait()
	if c.fetches.Load() && c.s.slow.Load() {
		time.Sleep(500 * time.Millisecond)
	}
	return n, err
}

func (c *stillConn) Write(b []byte) (int, error) {
	c.s.wait()
	if len(b) > 6 && kmsg.Key(binary.BigEndian.Uint16(b[4:])) == kmsg.Fetch {
		c.fetches.Store(true)
	}
	return c.Conn.Write(b)
}

// TestExpelledWhileItJoins: a copy is stopped in the middle of a rebalance; the group throws it out, another copy judges, and leaves. The first
// gets its partitions back under a new member id, and Kafka's client tells of no loss.
func TestExpelledWhileItJoins(t *testing.T) {
	w := newWorld(t)
	if w.broker.Fake == nil {
		t.Skip("faults are injected into kfake")
	}
	side := w.newClient()
	n := newStill()
	a := w.startWith(Upserts, nil, func(p *Processor) {
		p.deps.Kafka = append(w.broker.Opts(), kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, host)
			if err != nil {
				return nil, err
			}
			return &stillConn{Conn: conn, s: n}, nil
		}))
	}).ready()
	w.produce(w.grants(40, 8)...)
	w.awaitOutcomes(schemas.KindOwnership, 40)
	id, _ := a.session.cl.GroupMetadata()
	othersDone := make(chan struct{})
	var once atomic.Bool
	w.broker.Fake.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake.KeepControl()
		join := req.(*kmsg.JoinGroupRequest)
		if join.MemberID != id || !once.CompareAndSwap(false, true) {
			return nil, nil, false
		}
		n.stop()
		w.broker.Fake.SleepControl(func() {
			w.throwOut(side, join.Group, id)
			<-othersDone
		})
		return nil, nil, false
	})
	b := w.start(Upserts, nil)
	w.eventually("the rebalance begins", func() error {
		if !once.Load() {
			return context.DeadlineExceeded
		}
		return nil
	})
	w.produce(w.grants(40, 8)...)
	w.awaitOutcomes(schemas.KindOwnership, 80) // by the other copy
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	close(othersDone)
	n.slow.Store(true)
	n.goOn()
	time.Sleep(2 * time.Second)
	n.slow.Store(false)
	w.produce(w.grants(40, 8)...)
	w.checkOnce(w.awaitOutcomes(schemas.KindOwnership, 120))
	t.Log("restarts of the first copy:", counted(a.metrics.restarts))
}
