package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
)

// takeOver makes newly assigned partitions active: it waits until nobody else can write their rows any more, asks the tables what they
// have, commits as the owner, and starts reading. It tries for ever: each failure is one of Kafka or ClickHouse being away. The partitions are
// of one shard, so that another one that is away does not hold them up.
func (s *Sink) takeOver(parts []*part) {
	// Any commit of a predecessor that Kafka took was sent before the assignment, so that its lease ends at most one Lease after this.
	// Asked once: a later try waits no longer.
	start := time.Now()
	var begun time.Time
	for {
		parts = slices.DeleteFunc(parts, s.isGone)
		if len(parts) == 0 || s.ctx.Err() != nil {
			return
		}
		var done []*part
		var err error
		if begun.IsZero() {
			begun, err = s.now(s.ctx)
		}
		if err == nil {
			done, err = s.tryTakeOver(parts, start, begun)
		}
		if len(done) > 0 {
			s.met.takeOvers.Add(float64(len(done)))
			s.log.Info("sink took partitions over", "partitions", len(done), "seconds", time.Since(start).Seconds())
			parts = slices.DeleteFunc(parts, func(p *part) bool { return slices.Contains(done, p) })
		}
		if err == nil || s.ctx.Err() != nil {
			continue
		}
		s.log.Warn("sink could not take partitions over, trying again", "partitions", len(parts), "error", err)
		select {
		case <-s.ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (s *Sink) isGone(p *part) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.gone
}

// tryTakeOver does it once, first for the partitions that were released, which need no waiting. It returns those that are active now.
// start and begun are when it began, by our clock and by ClickHouse's.
func (s *Sink) tryTakeOver(parts []*part, start, begun time.Time) (done []*part, err error) {
	// Read now and not before: nobody else commits these partitions any more.
	commits, err := s.commits(parts)
	if err != nil {
		return nil, err
	}
	var held []*part
	var free []*part
	end := begun.Add(s.cfg.Lease)
	for _, p := range parts {
		c, ok := commits.Lookup(p.topic, p.partition)
		if ok && c.Err != nil {
			return nil, fmt.Errorf("committed offset of %s/%d: %w", p.topic, p.partition, c.Err)
		}
		if !ok || c.At < 0 {
			err := fmt.Errorf("sink: group %s has no committed offset for %s/%d: counterfoil migrate says what is amiss, and counterfoil adopt --offsets where the group must go on", schemas.GroupSink, p.topic, p.partition)
			s.stop(err)
			return nil, err
		}
		s.mu.Lock()
		p.committed = c.At
		s.mu.Unlock()
		if isReleased(c.Metadata) {
			free = append(free, p)
		} else {
			held = append(held, p)
			if until := heldUntil(c.Metadata); until.After(end) {
				end = until
			}
		}
	}
	if len(free) > 0 {
		if done, err = s.activate(free); err != nil {
			return done, err
		}
	}
	if len(held) == 0 {
		return done, nil
	}
	s.log.Info("sink waits for the lease of a predecessor", "partitions", len(held), "until", end)
	// By our clock too: ClickHouse's may be set forward for a moment and back again, and then it was past a lease that goes on.
	if err := sleepUntil(s.ctx, start.Add(s.cfg.Lease)); err != nil {
		return done, err
	}
	if err := s.waitFor(s.ctx, end.Add(s.skew)); err != nil {
		return done, err
	}
	for _, d := range s.destsOf(held) {
		if d.spec.state {
			continue
		}
		// Blocks that passed the constraint in time may still be on their way into a part. They are at work now, and known by name: when one
		// began could only be told by a clock that may have been set since. Others that begin later are none of a predecessor.
		ids, err := d.inserts(s.ctx)
		if err != nil {
			return done, err
		}
		if len(ids) > 0 {
			if err := d.waitGone(s.ctx, "has(?, query_id)", ids); err != nil {
				return done, err
			}
		}
	}
	more, err := s.activate(held)
	return append(done, more...), err
}

// commits reads the group's commits of the partitions' topics.
func (s *Sink) commits(parts []*part) (kadm.OffsetResponses, error) {
	var topics []string
	for _, p := range parts {
		if !slices.Contains(topics, p.topic) {
			topics = append(topics, p.topic)
		}
	}
	ctx, cancel := s.question(s.ctx)
	defer cancel()
	commits, err := s.admin.FetchOffsetsForTopics(ctx, schemas.GroupSink, topics...)
	if err != nil {
		return nil, fmt.Errorf("read the committed offsets of %s: %w", schemas.GroupSink, err)
	}
	return commits, nil
}

// destsOf are the tables that the partitions feed.
func (s *Sink) destsOf(parts []*part) []*dest {
	var all []*dest
	for _, p := range parts {
		for _, d := range p.dests {
			if !slices.Contains(all, d) {
				all = append(all, d)
			}
		}
	}
	return all
}

// activate asks the tables of partitions that nobody else writes any more, and starts reading behind what they have.
func (s *Sink) activate(parts []*part) ([]*part, error) {
	if err := s.at("before ask", ""); err != nil {
		return nil, err
	}
	for _, d := range s.destsOf(parts) {
		if d.spec.state {
			continue
		}
		byTopic := map[string]map[int32]int64{}
		for _, p := range parts {
			if slices.Contains(p.dests, d) {
				if byTopic[p.topic] == nil {
					byTopic[p.topic] = map[int32]int64{}
				}
				byTopic[p.topic][p.partition] = p.committed
			}
		}
		for topic, from := range byTopic {
			has, err := s.ask(s.ctx, d, topic, s.topics[topic].epoch, from)
			if err != nil {
				return nil, err
			}
			s.mu.Lock()
			for _, p := range parts {
				if highest, ok := has[p.partition]; ok && p.topic == topic {
					p.has[d] = highest + 1
				}
			}
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	for _, p := range parts {
		p.next = p.committed
		for _, d := range p.dests {
			p.done[d] = p.committed
		}
	}
	s.mu.Unlock()
	// Owner in the eyes of whoever comes next, before the first insert: until here the metadata may say "released".
	if err := s.commit(parts); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var active []*part
	resume := map[string][]int32{}
	for _, p := range parts {
		if p.gone {
			continue
		}
		p.active = true
		active = append(active, p)
		resume[p.topic] = append(resume[p.topic], p.partition)
	}
	s.client.ResumeFetchPartitions(resume)
	s.changed.Broadcast()
	return active, nil
}

// ask returns the highest offset that a table has of each partition, at or above from; partitions of which it has nothing there are absent.
func (s *Sink) ask(ctx context.Context, d *dest, topic string, epoch int32, from map[int32]int64) (map[int32]int64, error) {
	partitions := make([]string, 0, len(from))
	lowest := int64(-1)
	for partition, offset := range from {
		partitions = append(partitions, fmt.Sprint(partition))
		if lowest < 0 || offset < lowest {
			lowest = offset
		}
	}
	table := s.conn.local(d.spec.name)
	has := map[int32]int64{}
	ctx, cancel := s.question(ctx)
	defer cancel()
	err := s.conn.onShard(d.shard, func(conn driver.Conn) error {
		if err := s.conn.syncReplica(ctx, d.shard, conn, d.spec.name); err != nil {
			return err
		}
		rows, err := conn.Query(ctx, "SELECT partition, max(offset) FROM "+table+
			" WHERE topic = ? AND epoch = ? AND offset >= ? AND partition IN ("+strings.Join(partitions, ",")+") GROUP BY partition", topic, epoch, lowest)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var partition int32
			var offset int64
			if err := rows.Scan(&partition, &offset); err != nil {
				return err
			}
			if offset >= from[partition] {
				has[partition] = offset
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("ask %s what it has of %s: %w", d.spec.name, topic, err)
	}
	return has, nil
}

// question bounds a question to ClickHouse or Kafka: a connection may be silent for ever, and whoever asks asks again, over another one.
func (s *Sink) question(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.Lease)
}

// now is ClickHouse's clock.
func (s *Sink) now(ctx context.Context) (time.Time, error) {
	ctx, cancel := s.question(ctx)
	defer cancel()
	return s.clock(ctx)
}

// waitFor returns when ClickHouse's clock has passed t.
func (s *Sink) waitFor(ctx context.Context, t time.Time) error {
	for {
		now, err := s.now(ctx)
		if err != nil {
			return err
		}
		left := t.Sub(now)
		if left < 0 {
			return nil
		}
		// Asked again meanwhile: it may be set forward.
		if err := sleepUntil(ctx, time.Now().Add(min(left+time.Millisecond, s.cfg.Lease))); err != nil {
			return err
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Until(t)):
		return nil
	}
}

// killAfter is how long INSERTs of others are waited for before they are told to end. They are past their write_by: one that has not sent
// its block would be refused anyway, one that has is nearly done.
const killAfter = 5 * time.Second

// waitGone returns when no query that matches is running on any node of the table's shard; INSERTs go nowhere else. So a shard that is away
// holds up its own partitions only.
func (d *dest) waitGone(ctx context.Context, where string, args ...any) error {
	start, killed := time.Now(), time.Time{}
	for {
		running, err := d.running(ctx, where, args...)
		if err != nil || running == 0 {
			return err
		}
		if now := time.Now(); now.Sub(start) > killAfter && now.Sub(killed) > killAfter {
			killed = now
			d.kill(ctx, where, args...)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inserts are the ids of the INSERTs into the table that are at work on any node of its shard.
func (d *dest) inserts(ctx context.Context) (ids []string, err error) {
	conn := d.sink.conn
	ctx, cancel := d.sink.question(ctx)
	defer cancel()
	for _, i := range conn.shards[d.shard] {
		var found []string
		if err := conn.nodes[i].QueryRow(ctx, "SELECT groupArray(query_id) FROM system.processes WHERE startsWith(query_id, ?)", d.queryPrefix()).Scan(&found); err != nil {
			return nil, fmt.Errorf("ask %s for running inserts: %w", conn.nodes[i].addr, err)
		}
		ids = append(ids, found...)
	}
	return ids, nil
}

// running counts the queries that match, on all nodes of the shard.
func (d *dest) running(ctx context.Context, where string, args ...any) (running uint64, err error) {
	conn := d.sink.conn
	ctx, cancel := d.sink.question(ctx)
	defer cancel()
	for _, i := range conn.shards[d.shard] {
		var n uint64
		if err := conn.nodes[i].QueryRow(ctx, "SELECT count() FROM system.processes WHERE "+where, args...).Scan(&n); err != nil {
			return 0, fmt.Errorf("ask %s for running inserts: %w", conn.nodes[i].addr, err)
		}
		running += n
	}
	return running, nil
}

// kill tells the queries that match to end.
func (d *dest) kill(ctx context.Context, where string, args ...any) {
	conn := d.sink.conn
	ctx, cancel := d.sink.question(ctx)
	defer cancel()
	for _, i := range conn.shards[d.shard] {
		if err := conn.nodes[i].Exec(ctx, "KILL QUERY WHERE "+where+" ASYNC", args...); err != nil {
			d.sink.log.Warn("sink could not end an insert of a predecessor", "error", err)
		}
	}
}
