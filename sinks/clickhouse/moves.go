package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Facts come by id, in any partition, and some are read by something else: lines by customer, calls by number and by MHID. One that is sent
// again may name another customer or number, and a deletion names none; the new row alone would leave the old one where it lies, and to look
// thousands of facts up by id whenever something is read takes too long (half a second to two for 10,000 lines among 10 million). So each
// fact is moved when it comes: the table by id is written first; then, by [dest.move], the facts of that insert are read back with every place
// that they ever had, which that table keeps, and each of these gets a row in the other table: the fact itself where it is now, a deleted
// one elsewhere, both with the last version. The other table is written by nothing else, and so it never shows a fact twice, or not at all.
//
// Two copies of the sink may insert two versions of a fact at the same time. Each looks after its own row is there, so that the one which
// looks last sees both, and what it writes has the higher version. Rows of a copy that looked too early have the lower one, whenever they
// arrive. Offsets are committed after the move, so that an insert whose move did not come to its end is made again by whoever comes next, and
// moved; the same copy goes on with the move alone.

// follower is a table that holds a table's facts in another order.
type follower struct {
	table string
	place []string // the columns that say, with the tenant, where a fact lies; one whose first is an empty text is not in it
	other []string // what else it has of a fact, but its id
}

// moveRows is how many facts are moved at once: as many as take seconds, so that one that fails costs little. A variable for the tests.
var moveRows = 50_000

// moveTimeout is for reading so many facts back at random places.
const moveTimeout = 2 * time.Minute

// move brings the tables that follow this one up to date with the facts of an insert. After an error it goes on where it was.
func (d *dest) move(e *entry) error {
	if len(d.spec.followers) == 0 {
		return nil
	}
	if rows := e.fill.rows(); rows != e.inserted {
		e.inserted, e.moved = rows, 0 // some of them have a new owner, and the others have moved up
	}
	for e.moved < e.inserted {
		to := min(e.moved+moveRows, e.inserted)
		if err := d.moveSome(e.fill, e.moved, to); err != nil {
			return fmt.Errorf("move rows %d to %d of %d of %s: %w", e.moved, to, e.inserted, d.spec.name, err)
		}
		e.moved = to
	}
	return nil
}

func (d *dest) moveSome(f *fill, from, to int) error {
	s := d.sink
	if err := s.at("before move", d.spec.name); err != nil {
		return err
	}
	came, err := ext.NewTable("came", ext.Column("tenant", "String"), ext.Column("id", "String"))
	if err != nil {
		return err
	}
	for row := from; row < to; row++ {
		if err := came.Append(f.tenant.text(row), f.key[0].text(row)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, moveTimeout)
	defer cancel()
	settings := ch.Settings{
		"insert_deduplicate": 0,
		// The rows of a fact go in one block: nobody finds it at two places, or at none.
		"max_insert_threads": 1,
	}
	if s.conn.cfg.Cluster != "" {
		settings["insert_quorum"] = "auto"
	}
	ctx = ch.Context(ctx, ch.WithExternalTable(came), ch.WithSettings(settings))
	// All versions of a fact lie on one shard.
	return s.conn.onShard(d.shard, func(conn driver.Conn) error {
		if err := s.conn.syncReplica(ctx, d.shard, conn, d.spec.name); err != nil {
			return err
		}
		errs := make([]error, len(d.spec.followers))
		var group sync.WaitGroup
		for i := range d.spec.followers {
			to := &d.spec.followers[i]
			group.Go(func() {
				if err := conn.Exec(ctx, s.conn.moveSQL(d.spec, to)); err != nil {
					errs[i] = fmt.Errorf("%s: %w", to.table, err)
				}
			})
		}
		group.Wait()
		return errors.Join(errs...)
	})
}

// moveSQL writes what a following table has to say of the facts whose tenant and id are in came. A deletion names no place: the one of zeros
// that its row has is taken for one, so that no place is missed that is made of zeros. Of rows of one version, which two partitions can give in
// one millisecond, the greatest is the last, so that every move that sees them says the same.
func (c *Conn) moveSQL(spec *tableSpec, to *follower) string {
	// last is version, is_deleted, the place, the rest.
	columns := strings.Join(append(slices.Clone(to.place), to.other...), ", ")
	var place, here, other []string
	for i := range to.place {
		place = append(place, fmt.Sprintf("tupleElement(place, %d)", i+1))
		here = append(here, fmt.Sprintf("tupleElement(last, %d) = tupleElement(place, %d)", i+3, i+1))
	}
	for i := range to.other {
		other = append(other, fmt.Sprintf(", tupleElement(last, %d)", len(to.place)+i+3))
	}
	return "INSERT INTO " + c.local(to.table) + " (tenant, id, version, is_deleted, " + columns + `)
SELECT tenant, id, tupleElement(last, 1), tupleElement(last, 2) = 1 OR NOT (` + strings.Join(here, " AND ") + "), " + strings.Join(place, ", ") + strings.Join(other, "") + `
FROM (
    SELECT tenant, id, max(tuple(version, is_deleted, ` + columns + `)) AS last,
        groupUniqArrayIf(tuple(` + strings.Join(to.place, ", ") + "), toString(" + to.place[0] + `) != '') AS places
    FROM ` + c.local(spec.name) + `
    WHERE (tenant, id) IN (SELECT tenant, id FROM came)
    GROUP BY tenant, id
)
ARRAY JOIN places AS place`
}
