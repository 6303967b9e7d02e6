package audit

import (
	"context"
	"fmt"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// checkCopies compares, within ClickHouse, the tables that no topic says the contents of with those that they are made of. They are compared whole:
// a copy says what is so now, whenever it came.
func (a *auditor) checkCopies(ctx context.Context) error {
	settle := func(ctx context.Context) error {
		ends, err := offsets.List(ctx, a.Admin.ListEndOffsets, clickhouse.Topics()...)
		if err != nil {
			return err
		}
		return a.awaitSink(ctx, ends)
	}
	for _, c := range clickhouse.Copies() {
		a.Progress("comparing " + c.Table + " with " + c.Of)
		compared, differences, err := a.Conn.CopyDifferences(ctx, c, a.Tenant, a.Most, settle)
		if err != nil {
			return err
		}
		a.now().Compared += int64(compared)
		for _, d := range differences {
			do := "send the record of this own id again"
			if c.Of == schemas.KindOwnership {
				do = "send an item for this user and SKU again; until then ownership_current is wrong about them"
			}
			problem := fmt.Sprintf("%s has %d rows that count, and by %s it must have %d", c.Table, d.Rows, c.Of, d.Want)
			if d.Rows == d.Want {
				problem = fmt.Sprintf("%s says something else than %s", c.Table, c.Of)
			}
			a.found(Finding{
				Problem:   problem,
				Partition: -1, Offset: -1, Table: c.Table, Tenant: d.Tenant, Item: d.ID, Do: do,
			})
		}
	}
	return nil
}
