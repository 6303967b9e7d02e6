package harness

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Breakable gives a cluster servers of its own, reached through proxies, for tests that break them: see [Cluster.Broken]. Servers at given
// addresses and in containers are taken as they are, and not ours to break.
func Breakable() Option {
	return func(o *options) { o.breakable = true }
}

// Broken is what can be broken of a cluster besides the copies of roles; nil where it is not ours to break.
type Broken struct {
	Broker      *Broker
	KafkaNet    *Proxy // the clients are copies of roles, see [Copy.ClientID]
	Registry    *Server
	RegistryNet *Proxy
	ClickHouse  *Server
}

// servers starts what a breakable cluster has of its own, and returns how the roles and the test reach each server.
func (c *Cluster) servers(o *options) (broker *stack.Broker, registry string, ch *stack.CH) {
	c.t.Helper()
	if stack.GivenKafka() || stack.InContainers() {
		broker = stack.EmptyKafka(c.t)
	} else {
		c.Broken.Broker, c.Broken.KafkaNet = newBroker(c.t)
		broker = &stack.Broker{Addrs: []string{c.Broken.KafkaNet.Addr}}
	}
	if stack.GivenRegistry() {
		registry = stack.Registry(c.t)
	} else {
		c.Broken.Registry = newServer(c.t, embedded.Registry, embedded.Config{RegistryAddr: "127.0.0.1:0"})
		c.Broken.RegistryNet = NewProxy(c.t, c.Broken.Registry.stack.RegistryURL()[len("http://"):], nil)
		registry = "http://" + c.Broken.RegistryNet.Addr
	}
	switch {
	case o.sharded:
		ch = stack.Sharded(c.t)
	case !stack.OwnClickHouse():
		ch = stack.ClickHouse(c.t)
	default:
		s := newServer(c.t, embedded.ClickHouse, embedded.Config{ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0"})
		c.Broken.ClickHouse = s
		ch = &stack.CH{Addr: s.stack.ClickHouseAddr(), HTTPAddr: s.stack.ClickHouseHTTPAddr(), User: "default"}
	}
	return broker, registry, ch
}

// Server is an embedded server of a cluster. When it ends, it is started again on its data at once.
type Server struct {
	// Dir is its folder; settings for its next start can be laid into config.d there, where it is ClickHouse.
	Dir   string
	part  string
	stack *embedded.Stack
}

func newServer(t testing.TB, part string, cfg embedded.Config) *Server {
	t.Helper()
	cfg.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := embedded.Start(ctx, cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatalf("start %s: %v", part, err)
	}
	server := &Server{Dir: filepath.Join(cfg.Dir, part), part: part, stack: s}
	t.Cleanup(func() {
		server.Resume()
		s.Close()
	})
	return server
}

// Kill ends it with kill -9.
func (s *Server) Kill() { s.signal(syscall.SIGKILL) }

// Pause stops it as it stands (SIGSTOP) until Resume.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	if pid := s.stack.PIDs()[s.part]; pid != 0 {
		_ = syscall.Kill(pid, sig) // fails only where it has just ended
	}
}

// Broker is a cluster's own Kafka, which keeps its address and its data over restarts: Apache Kafka, or kfake in the process of the tests.
type Broker struct {
	t      testing.TB
	apache *stack.Apache

	mu      sync.Mutex
	fake    *kfake.Cluster // nil while it does not run
	dir     string
	addr    string // where it listens
	net     *Proxy // what it calls its address
	control atomic.Pointer[Control]
}

// Control answers a request in place of kfake where handled is true; an error cuts the connection. It must not wait but in SleepControl.
type Control func(fake *kfake.Cluster, req kmsg.Request) (resp kmsg.Response, err error, handled bool)

// newBroker starts an empty broker behind a proxy.
func newBroker(t testing.TB) (*Broker, *Proxy) {
	t.Helper()
	port := FreePort(t)
	b := &Broker{t: t, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	b.net = NewProxy(t, b.addr, KafkaClient)
	if stack.OnApache() {
		b.apache = stack.ApacheKafkaBehind(t, port, b.net.Addr)
		return b, b.net
	}
	b.dir = t.TempDir()
	b.Start()
	t.Cleanup(b.Kill)
	return b, b.net
}

// Apache reports whether it is Apache Kafka.
func (b *Broker) Apache() bool { return b.apache != nil }

// Kill ends the broker: Apache Kafka with kill -9; kfake is closed, as the child of `counterfoil up` closes it when its parent dies.
func (b *Broker) Kill() {
	if b.apache != nil {
		b.apache.Kill(b.t)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fake != nil {
		b.fake.Close()
		b.fake = nil
	}
}

// LoseMarker has an Apache Kafka that was killed forget what came last in a partition, where that is a transaction's marker, and reports whether
// it was.
func (b *Broker) LoseMarker(topic string, partition int32) bool {
	b.t.Helper()
	return b.apache.LoseMarker(b.t, topic, partition)
}

// Start starts the broker on its data, and returns when it answers.
func (b *Broker) Start() {
	b.t.Helper()
	if b.apache != nil {
		b.apache.Start(b.t)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fake != nil {
		return
	}
	fake, err := embedded.NewKafka(kfake.DataDir(b.dir), kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		l, err := net.Listen(network, b.addr)
		return advertised{l, b.net.Addr}, err
	}))
	if err != nil {
		b.t.Fatalf("start kfake: %v", err)
	}
	fake.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if f := b.control.Load(); f != nil {
			return (*f)(fake, req)
		}
		return nil, nil, false
	})
	b.fake = fake
}

// Pause stops Apache Kafka as it stands until Resume.
func (b *Broker) Pause() { b.apache.Pause(b.t) }

// Resume lets it go on.
func (b *Broker) Resume() { b.apache.Resume(b.t) }

// Control sets what stands before kfake from now on, over its restarts; nil: nothing any more.
func (b *Broker) Control(f Control) {
	if f == nil {
		b.control.Store(nil)
		return
	}
	b.control.Store(&f)
}
