package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/shopspring/decimal"

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

// BuyingReport is what a customer bought, by product, in the order of the products' codes: the view buying_report, whose comment has the rules.
// Empty: nothing, or there is no such customer. A number of months or weeks beyond a hundred years counts as a hundred. Fractions of a piece
// are counted up to a whole one.
func (r *Reports) BuyingReport(ctx context.Context, q schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	customer := q.CustomerID
	if customer == 0 {
		found, err := r.customer(ctx, q.Tenant, q.AccountNo)
		if err != nil || found == 0 {
			return nil, err
		}
		customer = found
	}
	query, err := r.buying()
	if err != nil {
		return nil, fmt.Errorf("buying report: %w", err)
	}
	rows, err := r.conn.any.Query(ch.Context(ctx, ch.WithSettings(buyingSettings), ch.WithParameters(ch.Parameters{
		"tenant":                q.Tenant,
		"customer":              strconv.FormatInt(customer, 10),
		"based_on":              q.BasedOn,
		"months_back":           strconv.Itoa(int(min(q.MonthsBack, maxMonthsBack))),
		"weeks_until_available": strconv.Itoa(int(min(q.WeeksUntilAvailable, maxWeeksAhead))),
		"today":                 q.Today.Format(time.DateOnly),
	})), query)
	if err != nil {
		return nil, fmt.Errorf("buying report: %w", err)
	}
	defer rows.Close()
	var all []schemas.BuyingReportItem
	for rows.Next() {
		var it schemas.BuyingReportItem
		var net decimal.Decimal
		var product string
		if err := rows.Scan(&product, &it.ID, &it.Code, &it.Description, &it.CustPartNo, &it.Barcode, &it.EPOSBarcode, &net, &it.LastInvoiced, &it.NextAvail); err != nil {
			return nil, fmt.Errorf("buying report: %w", err)
		}
		it.Qty = net.Ceil().IntPart()
		all = append(all, it)
	}
	return all, rows.Err()
}

// customer is the own id of the customer with an account number; 0: there is none. Of several the one sent last has it.
func (r *Reports) customer(ctx context.Context, tenant, account string) (int64, error) {
	if account == "" {
		return 0, nil
	}
	rows, err := r.conn.any.Query(ctx, "SELECT id FROM "+r.conn.table("customers")+" WHERE tenant = ? AND account_number = ? ORDER BY version DESC LIMIT 1", tenant, account)
	if err != nil {
		return 0, fmt.Errorf("customer of an account: %w", err)
	}
	defer rows.Close()
	var id int64
	if rows.Next() {
		if err := rows.Scan(&id); err != nil {
			return 0, fmt.Errorf("customer of an account: %w", err)
		}
	}
	return id, rows.Err()
}
