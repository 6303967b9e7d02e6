package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// versionsAtOnce is how many own ids are held before their table is asked.
const versionsAtOnce = 10_000

// latest is the last record of an own id so far.
type latest struct {
	version int64
	at      clickhouse.RecordAt
}

// checkState compares the records of reference and fact topics with their tables.
func (a *auditor) checkState(ctx context.Context) error {
	for _, topic := range schemas.TopicNames(schemas.RoleReference, schemas.RoleFact) {
		if clickhouse.StateTable(topic) == "" {
			continue
		}
		t, _ := schemas.TopicNamed(topic)
		ids := map[clickhouse.OwnID]latest{}
		bad := &badRecords{a: a, topic: topic}
		err := a.scan(ctx, topic, a.from[topic], a.to[topic], func(rec *kgo.Record) error {
			tenant, own, err := schemas.SplitReference(rec)
			if err != nil {
				return bad.add(ctx, rec)
			}
			if a.Tenant != "" && tenant != a.Tenant {
				return nil
			}
			a.now().Compared++
			version := schemas.FactVersion(rec.Timestamp, rec.Offset)
			if t.Role == schemas.RoleReference {
				version = schemas.Version(a.Epochs.Of(topic), rec.Offset)
			}
			id := clickhouse.OwnID{Tenant: tenant, ID: own}
			if l, ok := ids[id]; !ok || l.version < version {
				ids[id] = latest{version, clickhouse.RecordAt{Partition: rec.Partition, Offset: rec.Offset}}
			}
			if len(ids) < versionsAtOnce {
				return nil
			}
			defer clear(ids)
			return a.compareVersions(ctx, topic, ids)
		})
		if err != nil {
			return err
		}
		if err := a.compareVersions(ctx, topic, ids); err != nil {
			return err
		}
		if err := bad.check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// compareVersions asks the table for what it has of the ids. A record that it lacks must be a dead letter.
func (a *auditor) compareVersions(ctx context.Context, topic string, ids map[clickhouse.OwnID]latest) error {
	sorted := slices.SortedFunc(maps.Keys(ids), func(x, y clickhouse.OwnID) int {
		if c := strings.Compare(x.Tenant, y.Tenant); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	have, err := a.Conn.Versions(ctx, topic, sorted)
	if err != nil {
		return err
	}
	var behind []clickhouse.RecordAt
	for _, id := range sorted {
		if v, ok := have[id]; !ok || v < ids[id].version {
			behind = append(behind, ids[id].at)
		}
	}
	dead, err := a.deadLettersOf(ctx, topic, a.Epochs.Of(topic), behind)
	if err != nil {
		return err
	}
	for _, id := range sorted {
		v, ok := have[id]
		l := ids[id]
		if ok && v >= l.version || dead[l.at] > 0 {
			continue
		}
		problem := "the record has not arrived in its table"
		if ok {
			problem = fmt.Sprintf("the table has version %d of this own id, the record is version %d", v, l.version)
		}
		a.found(Finding{
			Problem: problem, Topic: topic, Partition: l.at.Partition, Offset: l.at.Offset, Table: clickhouse.StateTable(topic), Tenant: id.Tenant, Item: id.ID,
			Do: "send the record again: the latest version of an own id wins, so that this harms nothing",
		})
	}
	return nil
}
