package clickhouse

import (
	"context"
	"fmt"
	"maps"
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

// TopicEpochs returns the latest epoch of each topic that was recorded, on any node that can be reached: what could not be recorded on all of
// them counts. What only a node that is away has is missed, and the topic's id tells. A server that was never migrated knows none.
func (c *Conn) TopicEpochs(ctx context.Context) (map[string]TopicEpoch, error) {
	epochs := map[string]TopicEpoch{}
	if err := c.eachNode(func(n *node) error { return n.topicEpochs(ctx, c, epochs) }); err != nil {
		return nil, fmt.Errorf("read the epochs of topics: %w", err)
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

// GroupStarts returns what RecordGroupStart noted, on any node that can be reached. A server that was never migrated knows nothing.
func (c *Conn) GroupStarts(ctx context.Context) ([]GroupStart, error) {
	var all []GroupStart
	err := c.eachNode(func(n *node) error {
		var exists uint64
		if err := n.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = 'group_starts'", c.cfg.Database).Scan(&exists); err != nil || exists == 0 {
			return err
		}
		rows, err := n.Query(ctx, "SELECT DISTINCT topic, epoch, group FROM "+c.table("group_starts"))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var g GroupStart
			if err := rows.Scan(&g.Topic, &g.Epoch, &g.Group); err != nil {
				return err
			}
			if !slices.Contains(all, g) {
				all = append(all, g)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the starts of groups: %w", err)
	}
	return all, nil
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

// shareRecords gives every node what any of them has on record: one that was away, or is new, has missed something.
func (c *Conn) shareRecords(ctx context.Context) error {
	if len(c.nodes) < 2 {
		return nil
	}
	for _, t := range []struct{ table, columns string }{{"topic_epochs", "topic, topic_id, epoch, base"}, {"group_starts", "topic, epoch, group"}} {
		have, all := make([]map[string]bool, len(c.nodes)), map[string]bool{}
		for i := range c.nodes {
			var rows []string
			err := c.nodes[i].QueryRow(ctx, "SELECT groupUniqArray(toString(tuple("+t.columns+"))) FROM "+c.table(t.table)).Scan(&rows)
			if err != nil {
				return fmt.Errorf("read %s on %s: %w", t.table, c.nodes[i].addr, err)
			}
			have[i] = map[string]bool{}
			for _, row := range rows { // as text, they are what VALUES takes
				have[i][row], all[row] = true, true
			}
		}
		for i := range c.nodes {
			var missing []string
			for _, row := range slices.Sorted(maps.Keys(all)) {
				if !have[i][row] {
					missing = append(missing, row)
				}
			}
			if len(missing) == 0 {
				continue
			}
			if err := c.nodes[i].Exec(ctx, "INSERT INTO "+c.table(t.table)+" ("+t.columns+") VALUES "+strings.Join(missing, ", ")); err != nil {
				return fmt.Errorf("record in %s on %s: %w", t.table, c.nodes[i].addr, err)
			}
		}
	}
	return nil
}
