package harness

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Wire is what a network does to connections, from good to bad.
type Wire int

// What a [Proxy] can do. A change concerns open connections and new ones.
const (
	Whole Wire = iota
	// Slow delays every piece, in both directions.
	Slow
	// Unanswered carries what clients send and loses what the server answers. When it ends, so do the connections that it hurt.
	Unanswered
	// Silent carries nothing, and neither end hears of it. When it ends, what was sent meanwhile arrives, late.
	Silent
	// Cut ends connections and refuses new ones.
	Cut
)

// slowness is how long each piece takes on a slow wire: a request and its answer twice as long.
const slowness = 100 * time.Millisecond

// Proxy carries connections to a server and breaks them, all or those of one client. A connection's end is passed on in good order even where its
// client was killed: the embedded ClickHouse aborts when an idle connection is reset, which no server does.
type Proxy struct {
	Addr string

	server string
	whose  func(first []byte) string

	mu      sync.Mutex
	wires   map[string]Wire // by client; "": of all
	changed chan struct{}   // closed at each change
	open    map[*connection]struct{}
}

// connection is one that a proxy carries.
type connection struct {
	client net.Conn
	server *net.TCPConn
	whose  string
	lossy  bool          // an answer was lost; under Proxy.mu
	ended  chan struct{} // closed by end
	once   sync.Once
}

// NewProxy starts a proxy that carries connections to a server until the test ends. whose tells the client from the first bytes that it sends; nil:
// nobody asks.
func NewProxy(t testing.TB, server string, whose func(first []byte) string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Addr: l.Addr().String(), server: server, whose: whose, wires: map[string]Wire{}, changed: make(chan struct{}), open: map[*connection]struct{}{},
	}
	t.Cleanup(func() {
		l.Close()
		p.Set("", Cut)
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

// KafkaClient is the client id in a Kafka client's first request: length (4 bytes), key and version (2 each), correlation (4), client id with its
// length (2).
func KafkaClient(first []byte) string {
	if len(first) < 14 {
		return ""
	}
	n := int(int16(first[12])<<8 | int16(first[13]))
	if n < 0 || len(first) < 14+n {
		return ""
	}
	return string(first[14 : 14+n])
}

// Set changes the wire of a client, or of all ("").
func (p *Proxy) Set(client string, w Wire) {
	p.mu.Lock()
	p.wires[client] = w
	close(p.changed)
	p.changed = make(chan struct{})
	var ending []*connection
	for c := range p.open {
		if now := p.wire(c.whose); now == Cut || c.lossy && now < Unanswered {
			ending = append(ending, c)
		}
	}
	p.mu.Unlock()
	for _, c := range ending {
		c.end()
	}
}

// wire is the worse of a client's and everybody's. The caller holds mu.
func (p *Proxy) wire(client string) Wire { return max(p.wires[client], p.wires[""]) }

// serve carries one connection to its end. The client speaks first, in all protocols here.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	first := make([]byte, 64<<10)
	n, err := client.Read(first)
	if err != nil {
		return
	}
	c := &connection{client: client, ended: make(chan struct{})}
	if p.whose != nil {
		c.whose = p.whose(first[:n])
	}
	server, err := net.DialTimeout("tcp", p.server, 5*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	c.server = server.(*net.TCPConn)
	p.mu.Lock()
	p.open[c] = struct{}{}
	p.mu.Unlock()
	go func() {
		defer c.end()
		for n, err := n, error(nil); ; n, err = client.Read(first) {
			if n > 0 && p.lets(c, false) {
				if _, werr := server.Write(first[:n]); werr != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	answer := make([]byte, 64<<10)
	for {
		n, err := server.Read(answer)
		if n > 0 && p.lets(c, true) {
			if _, werr := client.Write(answer[:n]); werr != nil {
				c.end()
			}
		}
		if err != nil {
			break
		}
	}
	c.end()
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

// end closes the client's side at once and tells the server that no more comes; what the server still sends is read to its end and dropped.
func (c *connection) end() {
	c.once.Do(func() {
		close(c.ended)
		_ = c.client.Close()
		_ = c.server.CloseWrite()
		_ = c.server.SetReadDeadline(time.Now().Add(time.Minute))
	})
}

// lets waits until the wire carries what was read, and reports false where it is lost.
func (p *Proxy) lets(c *connection, answer bool) bool {
	for {
		p.mu.Lock()
		now, changed := p.wire(c.whose), p.changed
		if now == Unanswered && answer {
			c.lossy = true
		}
		p.mu.Unlock()
		switch now {
		case Whole:
			return true
		case Slow:
			select {
			case <-time.After(slowness):
				return true
			case <-c.ended:
				return !answer
			}
		case Unanswered:
			return !answer
		case Silent:
			// What a client sent that has ended since is still on the way.
			select {
			case <-changed:
			case <-ended(c, answer):
				return false
			}
		default:
			c.end()
			return false
		}
	}
}

// ended is closed when nobody is left for what was sent.
func ended(c *connection, answer bool) <-chan struct{} {
	if answer {
		return c.ended
	}
	return nil
}

// advertised is a listener that calls another address its own, which is what a broker tells clients.
type advertised struct {
	net.Listener
	addr string
}

func (a advertised) Addr() net.Addr {
	addr, _ := net.ResolveTCPAddr("tcp", a.addr)
	return addr
}
