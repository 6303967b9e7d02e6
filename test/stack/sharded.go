package stack

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/counterfoil/counterfoil/cmd/embedded"
)

// clusterName is that of the sharded cluster in remote_servers.
const clusterName = "shards"

// Sharded returns the test process's ClickHouse cluster, which the first call starts: two servers, each a shard of its
// own. The embedded engine cannot replicate (it has no interserver listener) and refuses ON CLUSTER.
func Sharded(t testing.TB) *CH {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.sharded == nil && shared.chErr == nil {
		var dir string
		if dir, shared.chErr = shared.tempDir(); shared.chErr == nil {
			c, err := startSharded(dir, nil)
			for _, n := range c.Nodes {
				shared.ends = append(shared.ends, func() { n.stack.Close() }) // the one that runs then
			}
			shared.sharded, shared.chErr = c, err
		}
	}
	if shared.chErr != nil {
		t.Fatalf("start ClickHouse: %v", shared.chErr)
	}
	return shared.sharded
}

// ShardedWith starts a cluster as [Sharded] for this test alone, whose servers have these users.
func ShardedWith(t testing.TB, analysts ...embedded.Analyst) *CH {
	t.Helper()
	c, err := startSharded(t.TempDir(), analysts)
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.Stop(t)
		}
	})
	if err != nil {
		t.Fatalf("start ClickHouse: %v", err)
	}
	return c
}

// startSharded starts the servers, with folders of their own below dir. What it returns is to be closed, also with an error.
func startSharded(dir string, analysts []embedded.Analyst) (*CH, error) {
	const nodes = 2
	c := &CH{User: "default", Cluster: clusterName}
	ports, err := freePorts(2 * nodes) // the servers must know each other's before they start
	if err != nil {
		return c, err
	}
	addr := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	gates := make([]*gate, nodes)
	for i := range gates {
		if gates[i], err = newGate(addr(ports[i])); err != nil {
			return c, err
		}
	}
	for i := range nodes {
		known := slices.Clone(gates)
		known[i] = &gate{addr: addr(ports[i])} // a server knows itself by its own address
		node := filepath.Join(dir, fmt.Sprint("shard-", i+1))
		if err := writeCluster(node, known); err != nil {
			return c, err
		}
		ch, err := startEmbedded(embedded.Config{Dir: node, ClickHouseAddr: addr(ports[i]), ClickHouseHTTPAddr: addr(ports[nodes+i]), Analysts: analysts})
		if err != nil {
			return c, err
		}
		ch.gate = gates[i]
		c.Nodes = append(c.Nodes, ch)
	}
	c.Addr, c.HTTPAddr = c.Nodes[0].Addr, c.Nodes[0].HTTPAddr
	return c, nil
}

// writeCluster gives an embedded ClickHouse, which is to run in a data folder, the cluster of the servers behind these gates, a shard each, in a
// file that the engine merges into its configuration. Without a secret the servers would ask each other as default, and so with more rights than
// the user who asks.
func writeCluster(dir string, gates []*gate) error {
	var shards strings.Builder
	for _, g := range gates {
		host, port, err := net.SplitHostPort(g.addr)
		if err != nil {
			return err
		}
		fmt.Fprintf(&shards, "<shard><replica><host>%s</host><port>%s</port></replica></shard>", host, port)
	}
	dir = filepath.Join(dir, embedded.ClickHouse, "config.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("<clickhouse><remote_servers><%[1]s><secret>of the tests</secret>%[2]s</%[1]s></remote_servers></clickhouse>\n", clusterName, shards.String())
	return os.WriteFile(filepath.Join(dir, "cluster.xml"), []byte(text), 0o644)
}

// gate is how the other server of a cluster, and the product, reach a server. It ends connections in good order: the embedded engine aborts when
// one is reset, as the other server does with one that has unread bytes when a query is cancelled or fails. No other server aborts then.
type gate struct {
	addr   string
	server string
	mu     sync.Mutex
	listen net.Listener // nil while the gate is shut
}

func newGate(server string) (*gate, error) {
	g := &gate{addr: "127.0.0.1:0", server: server}
	return g, g.open()
}

// shut has connections refused, as those to a server that is down are.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listen != nil {
		g.listen.Close()
		g.listen = nil
	}
}

// open takes connections, on the same port as before.
func (g *gate) open() error {
	l, err := net.Listen("tcp", g.addr)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addr, g.listen = l.Addr().String(), l
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go g.pass(client)
		}
	}()
	return nil
}

// pass carries a connection until both ends have ended.
func (g *gate) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", g.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client) // ends with the client, however that ended
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, server)     // until the client is gone
	_, _ = io.Copy(io.Discard, server) // until the server has ended
}

// Kill ends a server of [CH.Nodes] with kill -9; it is started again on its data at once.
func (c *CH) Kill(t testing.TB) {
	t.Helper()
	if pid := c.stack.PIDs()[embedded.ClickHouse]; pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL) // fails only where it has just ended
	}
}

// Stop ends a server of [CH.Nodes] until Start.
func (c *CH) Stop(t testing.TB) {
	t.Helper()
	c.gate.shut()
	c.stack.Close()
}

// Start starts a server again on its data and its addresses, after Stop.
func (c *CH) Start(t testing.TB) {
	t.Helper()
	again, err := startEmbedded(c.cfg)
	if err != nil {
		t.Fatalf("start ClickHouse again: %v", err)
	}
	c.stack = again.stack
	if err := c.gate.open(); err != nil {
		t.Fatalf("start ClickHouse again: %v", err)
	}
}
