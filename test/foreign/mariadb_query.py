"""Asks a MariaDB server HOST PORT something that needs its tables: prints the sum, which is 3."""
import sys

import pymysql

connection = pymysql.connect(host=sys.argv[1], port=int(sys.argv[2]), user="root", connect_timeout=10)
with connection.cursor() as cursor:
    cursor.execute("create or replace database shop")
    cursor.execute("create table shop.numbers (a int)")
    cursor.execute("insert into shop.numbers values (1), (2)")
    connection.commit()
    cursor.execute("select sum(a) from shop.numbers")
    print(cursor.fetchone()[0])
