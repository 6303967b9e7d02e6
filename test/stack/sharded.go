package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
			n.stack.Close()
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
	for i := range nodes {
		node := filepath.Join(dir, fmt.Sprint("shard-", i+1))
		if err := writeCluster(node, ports[:nodes]); err != nil {
			return c, err
		}
		ch, err := startEmbedded(embedded.Config{Dir: node, ClickHouseAddr: addr(ports[i]), ClickHouseHTTPAddr: addr(ports[nodes+i]), Analysts: analysts})
		if err != nil {
			return c, err
		}
		c.Nodes = append(c.Nodes, ch)
	}
	c.Addr, c.HTTPAddr = c.Nodes[0].Addr, c.Nodes[0].HTTPAddr
	return c, nil
}

// writeCluster gives an embedded ClickHouse, which is to run in a data folder, the cluster of the servers at these ports of this machine, a
// shard each, in a file that the engine merges into its configuration. Without a secret the servers would ask each other as default, and so
// with more rights than the user who asks.
func writeCluster(dir string, ports []int) error {
	var shards strings.Builder
	for _, port := range ports {
		fmt.Fprintf(&shards, "<shard><replica><host>127.0.0.1</host><port>%d</port></replica></shard>", port)
	}
	dir = filepath.Join(dir, embedded.ClickHouse, "config.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("<clickhouse><remote_servers><%[1]s><secret>of the tests</secret>%[2]s</%[1]s></remote_servers></clickhouse>\n", clusterName, shards.String())
	return os.WriteFile(filepath.Join(dir, "cluster.xml"), []byte(text), 0o644)
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
}
