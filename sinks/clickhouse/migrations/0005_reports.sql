-- buying_report: what 0003 says of it holds.
--
-- The sum is wider than what it adds up, so that no quantities are too large for it.
{{define "bought"}}
    SELECT product_key, sum(toDecimal256(bought, 10)) AS net, max(invoiced) AS last_invoiced, argMax(product, version) AS spelled
    FROM (
        SELECT product_key, product, version, quantity AS bought, CAST(NULL AS Nullable(Date32)) AS invoiced
        FROM {{table "order_lines_by_customer_state"}} FINAL
        WHERE tenant = {tenant:String} AND customer = {customer:Int64} AND {based_on:String} = 'O'
            AND ordered_on BETWEEN subtractMonths({today:Date32}, {months_back:Int32}) AND {today:Date32}
        UNION ALL
        SELECT product_key, product, version,
            if({based_on:String} = 'I' AND invoiced_on >= subtractMonths({today:Date32}, {months_back:Int32}), quantity, 0) AS bought,
            if(quantity > 0, invoiced_on, NULL) AS invoiced
        FROM {{table "invoice_lines_by_customer_state"}} FINAL
        WHERE tenant = {tenant:String} AND customer = {customer:Int64} AND invoiced_on <= {today:Date32}
    )
    GROUP BY product_key
    HAVING net > 0
{{end}}
CREATE OR REPLACE VIEW {{table "buying_report"}} AS
SELECT if(p.id = '', b.spelled, p.id) AS product, p.number AS number, if(p.code = '', product, p.code) AS code, p.description AS description,
    c.part_number AS part_number, p.barcode AS barcode, p.epos_barcode AS epos_barcode, b.net AS quantity, b.last_invoiced AS last_invoiced,
    s.next_available AS next_available
FROM ({{template "bought"}}) AS b
{{global}} LEFT JOIN ({{template "product"}} ORDER BY version DESC LIMIT 1 BY product_key) AS p ON p.product_key = b.product_key
{{global}} LEFT JOIN ({{template "part_number"}} ORDER BY version DESC LIMIT 1 BY product_key) AS c ON c.product_key = b.product_key
{{global}} LEFT JOIN ({{template "stock"}} ORDER BY version DESC LIMIT 1 BY product_key) AS s ON s.product_key = b.product_key
WHERE {weeks_until_available:Int32} = 0 OR s.available OR s.next_available <= addWeeks({today:Date32}, {weeks_until_available:Int32})
ORDER BY code, product;

-- Purchases of each account, as it was resolved: a participant that belongs to an account counts for that account. An account is one whatever the
-- case in which its id is spelled. It goes by the id of its last purchase, and by the number of the last that has one: none has, where the
-- account's record came after them. Ids of accounts are hex digits, so that lower makes of them what schemas.Fold does.
CREATE OR REPLACE VIEW {{table "purchases_by_account"}} AS
SELECT tenant, argMax(last_id, last_at) OVER account AS account_id, argMax(last_number, numbered_at) OVER account AS account_number, currency_code,
    purchases, lines, net_amount, vat_amount, total_amount, first_performed_on, last_performed_on
FROM (
    SELECT tenant, lower(account_id) AS account_key, currency_code, count() AS purchases, sum(length(line_quantity)) AS lines,
        sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_net_amount)) AS net_amount,
        sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_vat_amount)) AS vat_amount,
        sum(arraySum(x -> ifNull(x, toDecimal128(0, 10)), line_total_amount)) AS total_amount,
        min(performed_on) AS first_performed_on, max(performed_on) AS last_performed_on,
        argMax(account_id, tuple(judged_at, number)) AS last_id, max(tuple(judged_at, number)) AS last_at,
        argMax(account_number, tuple(judged_at, number)) AS last_number, maxIf(tuple(judged_at, number), isNotNull(account_number)) AS numbered_at
    FROM {{table "customer_events"}}
    WHERE kind = 'purchase'
    GROUP BY tenant, account_key, currency_code
)
WINDOW account AS (PARTITION BY tenant, account_key);
