package clickhouse

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// NodeState is what the promises of the sink depend on at one ClickHouse server.
type NodeState struct {
	Addr    string // host:port
	Version string
	// Ahead is by how much its clock is ahead of ours, to half of RoundTrip.
	Ahead, RoundTrip time.Duration
	// BlockTime: it has nowInBlock64, without which the constraint in_time of the log tables cannot be.
	BlockTime bool
	// AsyncInsert: an INSERT over our connection would be acknowledged before its rows are in a part.
	AsyncInsert bool
	Tables      []TableState // those that the sink fills, logs first
}

// TableState is what the promises of the sink depend on in one table.
type TableState struct {
	Name    string
	Log     bool // holds each record exactly once; others hold at least once and are read through a view
	Missing bool // all below is zero then
	// InTime: the constraint refuses a late INSERT of a member that lost its partitions.
	InTime bool
	// PartitionKey is the table's; any makes several parts of one INSERT, which are not visible at once.
	PartitionKey string
	// Synced: an acknowledged INSERT is on the disk, or (Replicas) on a quorum of replicas.
	Synced bool
	// Replicas of the rows, this one included.
	Replicas int
}

var (
	inTimeConstraint = regexp.MustCompile(`CONSTRAINT in_time CHECK \(?write_by > nowInBlock64\(3\)\)?[,)\s]`)
	fsyncSetting     = regexp.MustCompile(`\bfsync_after_insert = '?(\w+)`)
)

// Inspect looks at every node, and changes nothing. now is our clock.
func (c *Conn) Inspect(ctx context.Context, now func() time.Time) ([]NodeState, error) {
	var all []NodeState
	for i := range c.nodes {
		state, err := c.inspectNode(ctx, &c.nodes[i], now)
		if err != nil {
			return nil, fmt.Errorf("inspect ClickHouse %s: %w", c.nodes[i].addr, err)
		}
		all = append(all, state)
	}
	return all, nil
}

func (c *Conn) inspectNode(ctx context.Context, n *node, now func() time.Time) (NodeState, error) {
	s := NodeState{Addr: n.addr}
	var blockTime, async uint8
	err := n.QueryRow(ctx, "SELECT version(), (SELECT count() > 0 FROM system.functions WHERE name = 'nowInBlock64'), toUInt8(getSetting('async_insert'))").
		Scan(&s.Version, &blockTime, &async)
	if err != nil {
		return s, err
	}
	s.BlockTime, s.AsyncInsert = blockTime != 0, async != 0
	// The connection is open by now, so that the round trip is short.
	var clock time.Time
	sent := now()
	if err := n.QueryRow(ctx, "SELECT now64(3, 'UTC')").Scan(&clock); err != nil {
		return s, err
	}
	s.RoundTrip = now().Sub(sent)
	s.Ahead = clock.Sub(sent.Add(s.RoundTrip / 2))

	var fsyncDefault string
	if err := n.QueryRow(ctx, "SELECT any(value) FROM system.merge_tree_settings WHERE name = 'fsync_after_insert'").Scan(&fsyncDefault); err != nil {
		return s, err
	}
	type found struct{ create, engine, partition string }
	tables := map[string]found{}
	rows, err := n.Query(ctx, "SELECT name, create_table_query, engine_full, partition_key FROM system.tables WHERE database = ?", c.cfg.Database)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var f found
		if err := rows.Scan(&name, &f.create, &f.engine, &f.partition); err != nil {
			return s, err
		}
		tables[name] = f
	}
	if err := rows.Err(); err != nil {
		return s, err
	}
	for _, spec := range allTables() {
		t := TableState{Name: c.cfg.localName(spec.name), Log: !spec.state, Replicas: len(c.shards[n.shard])}
		f, ok := tables[t.Name]
		if t.Missing = !ok; ok {
			t.InTime = inTimeConstraint.MatchString(f.create)
			t.PartitionKey = f.partition
			value := fsyncDefault
			if m := fsyncSetting.FindStringSubmatch(f.engine); m != nil {
				value = m[1]
			}
			quorum := t.Replicas > 1 && strings.HasPrefix(f.engine, "Replicated") // the sink asks for insert_quorum
			t.Synced = quorum || value != "0" && value != "false"
		}
		s.Tables = append(s.Tables, t)
	}
	return s, nil
}
