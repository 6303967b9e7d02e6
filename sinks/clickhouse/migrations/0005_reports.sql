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
