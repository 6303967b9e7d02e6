package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"
	"golang.org/x/sync/errgroup"

	"github.com/counterfoil/counterfoil/schemas"
)

// Limits of the report's window, in years: ClickHouse's days go no further.
const (
	maxMonthsBack = 12 * 100
	maxWeeksAhead = 52 * 100
)

// buyingSettings: orders and invoices are read side by side. Each of them is not worth another thread: with FINAL, that would cut the work into
// many pieces first.
var buyingSettings = ch.Settings{"max_threads": 2, "max_final_threads": 1}

// buyingQueries are those that the view buying_report is made of.
type buyingQueries struct{ bought, product, partNumber, stock string }

func (c *Conn) buyingQueries() (*buyingQueries, error) {
	const ofBought = "GLOBAL IN (SELECT product_key FROM bought)" // an external table: on a cluster it is sent on
	var q buyingQueries
	for name, to := range map[string]*string{"product": &q.product, "part_number": &q.partNumber, "stock": &q.stock} {
		var err error
		if *to, err = c.query(name, ofBought); err != nil {
			return nil, err
		}
	}
	var err error
	q.bought, err = c.query("bought", "")
	return &q, err
}

// boughtProduct is what is left of a product that a customer bought, and what is known of it.
type boughtProduct struct {
	id        string // as products spells it, or else the last of the lines
	available bool
	item      schemas.BuyingReportItem

	product, part, stock int64 // versions of what is known; 0: nothing
}

// BuyingReport is what a customer bought, by product, in the order of the products' codes: the view buying_report, whose comment has the rules.
// Empty: nothing, or there is no such customer. A number of months or weeks beyond a hundred years counts as a hundred. Fractions of a piece
// are counted up to a whole one. More pieces than Qty can say are an error.
func (r *Reports) BuyingReport(ctx context.Context, q schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	if q.CustomerID == 0 {
		var err error
		if q.CustomerID, err = r.customer(ctx, q.Tenant, q.AccountNo); err != nil || q.CustomerID == 0 {
			return nil, err
		}
	}
	q.MonthsBack, q.WeeksUntilAvailable = min(q.MonthsBack, maxMonthsBack), min(q.WeeksUntilAvailable, maxWeeksAhead)
	bought, err := r.bought(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("buying report: %w", err)
	}
	until := q.Today.AddDate(0, 0, 7*int(q.WeeksUntilAvailable))
	left := make([]*boughtProduct, 0, len(bought))
	for _, b := range bought {
		if b.item.Code == "" {
			b.item.Code = b.id
		}
		if q.WeeksUntilAvailable == 0 || b.available || b.item.NextAvail != nil && !b.item.NextAvail.After(until) {
			left = append(left, b)
		}
	}
	slices.SortFunc(left, func(a, b *boughtProduct) int {
		return cmp.Or(cmp.Compare(a.item.Code, b.item.Code), cmp.Compare(a.id, b.id))
	})
	var all []schemas.BuyingReportItem
	for _, b := range left {
		all = append(all, b.item)
	}
	return all, nil
}

// bought is what a customer bought, by the products' folded ids.
func (r *Reports) bought(ctx context.Context, q schemas.BuyingReportParams) (map[string]*boughtProduct, error) {
	queries, err := r.buying()
	if err != nil {
		return nil, err
	}
	keys, err := ext.NewTable("bought", ext.Column("product_key", "String"))
	if err != nil {
		return nil, err
	}
	options := []ch.QueryOption{ch.WithSettings(buyingSettings), ch.WithParameters(ch.Parameters{
		"tenant":      q.Tenant,
		"customer":    strconv.FormatInt(q.CustomerID, 10),
		"based_on":    q.BasedOn,
		"months_back": strconv.Itoa(int(q.MonthsBack)),
		"today":       q.Today.Format(time.DateOnly),
	})}
	all := map[string]*boughtProduct{}
	err = r.each(ch.Context(ctx, options...), queries.bought, func(rows driver.Rows) error {
		var key string
		var net decimal.Decimal
		b := new(boughtProduct)
		if err := rows.Scan(&key, &net, &b.item.LastInvoiced, &b.id); err != nil {
			return err
		}
		pieces := net.Ceil().BigInt()
		if !pieces.IsInt64() {
			return fmt.Errorf("of product %q %s pieces are left: a number of 64 bits cannot say so", b.id, pieces)
		}
		b.item.Qty = pieces.Int64()
		all[key] = b
		return keys.Append(key)
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	// Each of the three writes members of its own. Of several records of one product, in spellings of their own, the last one counts.
	group, ctx := errgroup.WithContext(ch.Context(ctx, append(options, ch.WithExternalTable(keys))...))
	group.Go(func() error {
		return r.each(ctx, queries.product, func(rows driver.Rows) error {
			var key, id string
			var version int64
			var it schemas.BuyingReportItem
			if err := rows.Scan(&key, &version, &id, &it.ID, &it.Code, &it.Description, &it.Barcode, &it.EPOSBarcode); err != nil {
				return err
			}
			if b := all[key]; version >= b.product {
				b.product, b.id = version, id
				b.item.ID, b.item.Code, b.item.Description, b.item.Barcode, b.item.EPOSBarcode = it.ID, it.Code, it.Description, it.Barcode, it.EPOSBarcode
			}
			return nil
		})
	})
	group.Go(func() error {
		return r.each(ctx, queries.partNumber, func(rows driver.Rows) error {
			var key, number string
			var version int64
			if err := rows.Scan(&key, &version, &number); err != nil {
				return err
			}
			if b := all[key]; version >= b.part {
				b.part, b.item.CustPartNo = version, number
			}
			return nil
		})
	})
	group.Go(func() error {
		return r.each(ctx, queries.stock, func(rows driver.Rows) error {
			var key string
			var version int64
			var available uint8
			var next *time.Time
			if err := rows.Scan(&key, &version, &available, &next); err != nil {
				return err
			}
			if b := all[key]; version >= b.stock {
				b.stock, b.available, b.item.NextAvail = version, available == 1, next
			}
			return nil
		})
	})
	return all, group.Wait()
}

// each calls f with every row of an answer.
func (r *Reports) each(ctx context.Context, query string, f func(driver.Rows) error) error {
	rows, err := r.conn.any.Query(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// customer is the own id of the customer with an account number, which is compared without blanks around it; 0: there is none. Of several the
// one sent last has it.
func (r *Reports) customer(ctx context.Context, tenant, account string) (int64, error) {
	if account == "" {
		return 0, nil
	}
	rows, err := r.conn.any.Query(ctx, "SELECT id, ifNull(account_number, '') FROM "+r.conn.table("customers")+" WHERE tenant = ? AND position(account_number, ?) > 0 ORDER BY version DESC", tenant, account)
	if err != nil {
		return 0, fmt.Errorf("customer of an account: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var number string
		if err := rows.Scan(&id, &number); err != nil {
			return 0, fmt.Errorf("customer of an account: %w", err)
		}
		if strings.TrimSpace(number) == account {
			return id, nil
		}
	}
	return 0, rows.Err()
}
