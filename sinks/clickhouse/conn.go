package clickhouse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/counterfoil/counterfoil/schemas"
)

// Conn is ClickHouse as the sink, the reports and migrate see it: one server, or the nodes of a cluster.
type Conn struct {
	cfg Config
	// any reaches whichever configured host answers; it serves reads.
	any driver.Conn
	// nodes are the servers that hold tables, each by a connection pool of its own: the configured hosts' one server, or all
	// replicas of all shards of the cluster. ON CLUSTER is not used, because the embedded engine refuses it.
	nodes []node
	// shards are the nodes by shard; a single server is one shard.
	shards [][]int
}

type node struct {
	driver.Conn
	addr    string
	shard   int // from 0
	replica int // from 0
}

// Open connects to ClickHouse. It does not need the database to exist; it needs a server that answers, so that a wrong address is named
// at the start.
func Open(ctx context.Context, cfg Config) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	opts, err := cfg.options(cfg.Hosts)
	if err != nil {
		return nil, err
	}
	c := &Conn{cfg: cfg}
	if c.any, err = ch.Open(opts); err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	if err := c.findNodes(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// findNodes fills nodes and shards.
func (c *Conn) findNodes(ctx context.Context) error {
	if c.cfg.Cluster == "" {
		if err := c.any.Ping(ctx); err != nil {
			return fmt.Errorf("ClickHouse at %v: %w", c.cfg.Hosts, err)
		}
		c.nodes = []node{{Conn: c.any, addr: c.cfg.Hosts[0]}}
		c.shards = [][]int{{0}}
		return nil
	}
	rows, err := c.any.Query(ctx, `SELECT shard_num, replica_num, host_name, port FROM system.clusters WHERE cluster = ? ORDER BY shard_num, replica_num`, c.cfg.Cluster)
	if err != nil {
		return fmt.Errorf("nodes of cluster %s: %w", c.cfg.Cluster, err)
	}
	defer rows.Close()
	for rows.Next() {
		var shard, replica uint32
		var host string
		var port uint16
		if err := rows.Scan(&shard, &replica, &host, &port); err != nil {
			return fmt.Errorf("nodes of cluster %s: %w", c.cfg.Cluster, err)
		}
		if c.cfg.NodePort != 0 {
			port = uint16(c.cfg.NodePort)
		}
		addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
		opts, err := c.cfg.options([]string{addr})
		if err != nil {
			return err
		}
		conn, err := ch.Open(opts)
		if err != nil {
			return fmt.Errorf("open ClickHouse node %s: %w", addr, err)
		}
		c.nodes = append(c.nodes, node{Conn: conn, addr: addr, shard: int(shard) - 1, replica: int(replica) - 1})
		for len(c.shards) < int(shard) {
			c.shards = append(c.shards, nil)
		}
		c.shards[shard-1] = append(c.shards[shard-1], len(c.nodes)-1)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("nodes of cluster %s: %w", c.cfg.Cluster, err)
	}
	if len(c.nodes) == 0 {
		return fmt.Errorf("ClickHouse knows no cluster %q (see remote_servers)", c.cfg.Cluster)
	}
	return nil
}

// options is everything that each connection has in common.
func (c *Config) options(hosts []string) (*ch.Options, error) {
	o := &ch.Options{
		Addr: slices.Clone(hosts),
		// No default database: migrate creates it, and every statement names it.
		Auth:             ch.Auth{Username: c.User, Password: c.Password},
		DialTimeout:      5 * time.Second,
		ReadTimeout:      5 * time.Minute,
		MaxOpenConns:     16,
		MaxIdleConns:     8,
		ConnMaxLifetime:  time.Hour,
		Compression:      &ch.Compression{Method: ch.CompressionLZ4},
		ClientInfo:       ch.ClientInfo{Products: []struct{ Name, Version string }{{Name: "counterfoil", Version: "1"}}},
		ConnOpenStrategy: ch.ConnOpenInOrder,
		Settings: ch.Settings{
			// On by default in newer servers; a row would be acknowledged before it is in a part.
			"async_insert": 0,
		},
	}
	if c.Cluster != "" {
		// An answer without the rows of a shard that is away would be a wrong one.
		o.Settings["skip_unavailable_shards"] = 0
	}
	if c.local() {
		// Compression between two processes of one machine only costs.
		o.Compression = nil
	}
	if !c.TLS {
		o.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: o.DialTimeout, KeepAliveConfig: keepAlive}
			conn, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &politeConn{TCPConn: conn.(*net.TCPConn)}, nil
		}
	}
	if c.TLS {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("CLICKHOUSE_TLS_CA_FILE: %w", err)
			}
			o.TLS.RootCAs = x509.NewCertPool()
			if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("CLICKHOUSE_TLS_CA_FILE %s holds no certificate", c.CAFile)
			}
		}
	}
	return o, nil
}

// keepAlive finds an idle connection whose other end is gone before a statement is sent over it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// politeConn is closed without a reset. The driver closes the connection of a query that is cancelled; what the server had sent meanwhile
// then lies unread, and the kernel answers with a reset, on which the embedded engine (26.7) aborts: it catches no exception between two
// queries. So the end is announced, and what still comes is read, for a moment.
type politeConn struct {
	*net.TCPConn
	once sync.Once
}

func (c *politeConn) Close() (err error) {
	c.once.Do(func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // whoever reads or writes stops at once, as after any Close
		if c.CloseWrite() != nil {
			err = c.TCPConn.Close()
			return
		}
		go func() {
			defer func() { _ = c.TCPConn.Close() }()
			time.Sleep(10 * time.Millisecond) // the others have seen the deadline
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, _ = io.Copy(io.Discard, c.TCPConn)
		}()
	})
	return err
}

// local reports whether every host is this machine.
func (c *Config) local() bool {
	return !slices.ContainsFunc(c.Hosts, func(addr string) bool {
		host, _, err := net.SplitHostPort(addr)
		return err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback()
	})
}

// Ping is nil when ClickHouse answers.
func (c *Conn) Ping(ctx context.Context) error { return c.any.Ping(ctx) }

// Close closes all connections.
func (c *Conn) Close() error {
	err := c.any.Close()
	if c.cfg.Cluster != "" {
		for _, n := range c.nodes {
			err = errors.Join(err, n.Close())
		}
	}
	return err
}

// table is the full name of a table or view.
func (c *Conn) table(name string) string { return "`" + c.cfg.Database + "`.`" + name + "`" }

// local is the full name of the table on a node that holds the rows; on a cluster the plain name is the Distributed table above it.
func (c *Conn) local(name string) string { return c.table(c.cfg.localName(name)) }

func (c *Config) localName(name string) string {
	if c.Cluster == "" {
		return name
	}
	return name + "_local"
}

// now is ClickHouse's own clock, by which leases are counted. A cluster's nodes must agree to within Sink.skew.
func (c *Conn) now(ctx context.Context) (time.Time, error) {
	var t time.Time
	if err := c.any.QueryRow(ctx, "SELECT now64(3, 'UTC')").Scan(&t); err != nil {
		return time.Time{}, fmt.Errorf("ask ClickHouse for its time: %w", err)
	}
	return t, nil
}

// shardOf fixes the shard of a partition for good: the rows of one partition lie on one shard, so that one table answers what is
// there already.
func (c *Conn) shardOf(topic string, partition int32) int {
	if len(c.shards) == 1 {
		return 0
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(topic) {
		h = (h ^ uint32(topic[i])) * 16777619
	}
	return int((h + uint32(partition)) % uint32(len(c.shards)))
}

// shardOfKey fixes the shard of a fact by the key of its records, because each of them may come by another partition.
func (c *Conn) shardOfKey(key []byte) int { return int(schemas.Partition(key, int32(len(c.shards)))) }

// syncReplica makes a node of a shard know all that any of its replicas has taken: a block went to a quorum of them, perhaps without this one.
func (c *Conn) syncReplica(ctx context.Context, shard int, conn driver.Conn, table string) error {
	if len(c.shards[shard]) < 2 {
		return nil
	}
	return conn.Exec(ctx, "SYSTEM SYNC REPLICA "+c.local(table)+" LIGHTWEIGHT")
}

// onShard runs f with a node of the shard, and with the next replica while f fails to connect.
func (c *Conn) onShard(shard int, f func(driver.Conn) error) error {
	var err error
	for _, i := range c.shards[shard] {
		if err = f(c.nodes[i].Conn); err == nil || !errors.Is(err, ch.ErrAcquireConnNoAddress) && !isDial(err) {
			return err
		}
	}
	return err
}

// eachNode runs f with every node that can be reached. It fails where none can, or f does.
func (c *Conn) eachNode(f func(*node) error) error {
	var away error
	reached := false
	for i := range c.nodes {
		n := &c.nodes[i]
		switch err := f(n); {
		case err == nil:
			reached = true
		case isDial(err):
			away = fmt.Errorf("ClickHouse %s: %w", n.addr, err)
		default:
			return fmt.Errorf("ClickHouse %s: %w", n.addr, err)
		}
	}
	if !reached {
		return away
	}
	return nil
}

// isDial reports an error from before anything was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
