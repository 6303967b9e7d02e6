package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// TopicEpoch is a life of a topic: positions in the tables belong to one.
type TopicEpoch struct {
	ID string // Kafka's id of the topic; one that is created anew has another
	schemas.Epoch
}

// GroupStart says that a group's first offsets of a topic have been committed: they are never set again.
type GroupStart struct {
	Topic string
	Epoch int32
	Group string
}

// Topics are the topics that the sink reads.
func Topics() []string {
	var names []string
	for _, t := range schemas.Topics() {
		if tablesOf(t) != nil {
			names = append(names, t.Name)
		}
	}
	return names
}

// TopicEpochs returns the latest epoch of each topic that was recorded, on any node: what could not be recorded on all of them counts. A server
// that was never migrated knows none.
func (c *Conn) TopicEpochs(ctx context.Context) (map[string]TopicEpoch, error) {
	epochs := map[string]TopicEpoch{}
	for i := range c.nodes {
		if err := c.nodes[i].topicEpochs(ctx, c, epochs); err != nil {
			return nil, fmt.Errorf("read the epochs of topics from %s: %w", c.nodes[i].addr, err)
		}
	}
	return epochs, nil
}

func (n *node) topicEpochs(ctx context.Context, c *Conn, into map[string]TopicEpoch) error {
	var columns []string
	if err := n.QueryRow(ctx, "SELECT groupArray(name) FROM system.columns WHERE database = ? AND table = 'topic_epochs'", c.cfg.Database).Scan(&columns); err != nil {
		return err
	}
	base := "base"
	switch {
	case len(columns) == 0:
		return nil
	case !slices.Contains(columns, base):
		base = "toInt64(0)" // by an older version; migrate adds the column
	}
	rows, err := n.Query(ctx, "SELECT topic, topic_id, epoch, "+base+" FROM "+c.table("topic_epochs")+" ORDER BY topic, epoch, recorded_at")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var topic string
		var e TopicEpoch
		if err := rows.Scan(&topic, &e.ID, &e.Number, &e.Base); err != nil {
			return err
		}
		if known, ok := into[topic]; !ok || known.Number <= e.Number {
			into[topic] = e
		}
	}
	return rows.Err()
}

// RecordTopicEpoch notes a topic's id under an epoch, on every node. Noting it twice changes nothing.
func (c *Conn) RecordTopicEpoch(ctx context.Context, topic string, e TopicEpoch) error {
	return c.record(ctx, "topic_epochs (topic, topic_id, epoch, base)", topic, e.ID, e.Number, e.Base)
}

// GroupStarts returns what RecordGroupStart noted. A server that was never migrated knows nothing.
func (c *Conn) GroupStarts(ctx context.Context) ([]GroupStart, error) {
	if ok, err := c.exists(ctx, "group_starts"); err != nil || !ok {
		return nil, err
	}
	rows, err := c.any.Query(ctx, "SELECT DISTINCT topic, epoch, group FROM "+c.table("group_starts"))
	if err != nil {
		return nil, fmt.Errorf("read the starts of groups: %w", err)
	}
	defer rows.Close()
	var all []GroupStart
	for rows.Next() {
		var g GroupStart
		if err := rows.Scan(&g.Topic, &g.Epoch, &g.Group); err != nil {
			return nil, fmt.Errorf("read the starts of groups: %w", err)
		}
		all = append(all, g)
	}
	return all, rows.Err()
}

// RecordGroupStart notes that a group's first offsets of a topic are committed, on every node. Noting it twice changes nothing.
func (c *Conn) RecordGroupStart(ctx context.Context, g GroupStart) error {
	return c.record(ctx, "group_starts (topic, epoch, group)", g.Topic, g.Epoch, g.Group)
}

// record inserts a row into a table that each node has for itself.
func (c *Conn) record(ctx context.Context, into string, args ...any) error {
	for i := range c.nodes {
		values := strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")
		if err := c.nodes[i].Exec(ctx, "INSERT INTO `"+c.cfg.Database+"`."+into+" VALUES ("+values+")", args...); err != nil {
			return fmt.Errorf("record in %s on %s: %w", into, c.nodes[i].addr, err)
		}
	}
	return nil
}

func (c *Conn) exists(ctx context.Context, table string) (bool, error) {
	var n uint64
	if err := c.any.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", c.cfg.Database, table).Scan(&n); err != nil {
		return false, fmt.Errorf("look for the table %s: %w", table, err)
	}
	return n > 0, nil
}
