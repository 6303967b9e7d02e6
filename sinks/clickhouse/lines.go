package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Order and invoice lines come by id, in any partition, and are read by customer. A line that is sent again may name another customer, and a
// deletion names none; the new row alone would leave the old one where it lies. To look each of a customer's lines up by id when a report is
// read took half a second to two (10,000 lines among 10 million). So each line is moved when it comes: the table by id is written first; then,
// by [dest.moveLines], the lines of that insert are read back with every customer that ever had them, and each of these gets a row in
// the table by customer: the line itself where it is now, a deleted one elsewhere, both with the last version.
//
// Two copies of the sink may insert two versions of a line at the same time. Each looks after its own row is there, so that the one which
// looks last sees both, and what it writes has the higher version. Rows of a copy that looked too early have the lower one, whenever they
// arrive. Offsets are committed after the move, so that an insert whose move did not come to its end is made again, and moved.

// moveTimeout is for reading 100,000 lines back at random places, which takes seconds.
const moveTimeout = 2 * time.Minute

// moveLines brings the table by customer up to date with the lines of an insert; nothing to do for other tables.
func (d *dest) moveLines(f *fill) error {
	if d.spec.byCustomer == "" {
		return nil
	}
	s := d.sink
	came, err := ext.NewTable("came", ext.Column("tenant", "String"), ext.Column("id", "String"))
	if err != nil {
		return err
	}
	for row := range f.rows() {
		if err := came.Append(f.tenant.text(row), f.key[0].text(row)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, moveTimeout)
	defer cancel()
	settings := ch.Settings{"insert_deduplicate": 0}
	if s.conn.cfg.Cluster != "" {
		settings["insert_quorum"] = "auto"
	}
	ctx = ch.Context(ctx, ch.WithExternalTable(came), ch.WithSettings(settings))
	err = s.conn.onShard(d.shard, func(conn driver.Conn) error { return conn.Exec(ctx, s.conn.moveSQL(d.spec)) })
	if err != nil {
		return fmt.Errorf("move %d lines in %s: %w", f.rows(), d.spec.byCustomer, err)
	}
	return nil
}

// moveSQL writes what the table by customer has to say of the lines whose tenant and id are in came.
func (c *Conn) moveSQL(spec *tableSpec) string {
	var names, last []string
	for _, col := range spec.sources[0].columns {
		if col.name != "id" && col.name != "customer" {
			names = append(names, col.name)
			last = append(last, fmt.Sprintf("tupleElement(last, %d)", len(names)+2))
		}
	}
	global := ""
	if c.cfg.Cluster != "" {
		global = "GLOBAL "
	}
	return "INSERT INTO " + c.local(spec.byCustomer) + " (tenant, customer, id, version, is_deleted, " + strings.Join(names, ", ") + `)
SELECT tenant, one, id, last_version, tupleElement(last, 1) = 1 OR tupleElement(last, 2) != one, ` + strings.Join(last, ", ") + `
FROM (
    SELECT tenant, id, max(version) AS last_version, argMax(tuple(is_deleted, customer, ` + strings.Join(names, ", ") + `), version) AS last,
        groupUniqArrayIf(customer, is_deleted = 0) AS customers
    FROM ` + c.table(spec.name) + `
    WHERE (tenant, id) ` + global + `IN (SELECT tenant, id FROM came)
    GROUP BY tenant, id
)
ARRAY JOIN customers AS one`
}
